package process

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// DiskUsed is what a directory takes, in bytes. Where it is on another file system than
// beside, that is all that is used there: only that counts blocks once that files
// share. Otherwise it is what its files have allocated, each counted once.
func DiskUsed(dir, beside string) (int64, error) {
	var of, other unix.Stat_t
	if err := unix.Stat(dir, &of); err != nil {
		return 0, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if err := unix.Stat(beside, &other); err != nil {
		return 0, &os.PathError{Op: "stat", Path: beside, Err: err}
	}
	if of.Dev == other.Dev {
		return allocated(dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize, nil //nolint:gosec // no file system is that large
}

// DiskFree is what is left where dir is, in bytes.
func DiskFree(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil //nolint:gosec // no file system is that large
}

// blockUnit is that of st_blocks, in bytes, whatever the file system's blocks are.
const blockUnit = 512

func allocated(dir string) (total int64, err error) {
	seen := map[uint64]bool{} // inodes that have several names
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return gone(err)
		}
		info, err := entry.Info()
		if err != nil {
			return gone(err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || seen[st.Ino] {
			return nil
		}
		if st.Nlink > 1 && !entry.IsDir() {
			seen[st.Ino] = true
		}
		total += st.Blocks * blockUnit
		return nil
	})
	return total, err
}

// gone makes nothing of a file's absence: somebody else may tidy up meanwhile.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
