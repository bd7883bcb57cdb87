package process

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// FillPageCache makes a file of holes, as large as this machine's memory, and reads it
// twice. On a virtual machine the first touch of a page can take longer than any work
// with it; afterwards what needs memory gets pages that were touched before. The file
// must stay until all is measured: removing it would give its pages back.
func FillPageCache(path string) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return os.NewSyscallError("sysinfo", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	size := int64(info.Totalram) * int64(info.Unit) //nolint:gosec // no machine has that much
	return errors.Join(readTwice(f, size), f.Close())
}

func readTwice(f *os.File, size int64) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for range 2 {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf); err != nil {
			return err
		}
	}
	return nil
}
