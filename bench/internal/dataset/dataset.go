// Package dataset makes the directory that the dir benchmark replicates, and the
// changes between its first and its second version. Both are the same in every run.
package dataset

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// What there is at full scale, and what changes.
const (
	smallFiles   = 20_000
	largeFiles   = 4
	largeSize    = 512 << 20
	filesPerDir  = 200
	editedEach   = 100 // one in so many small files is edited
	rewritten    = 100 << 20
	inserted     = 1 << 20
	deletedFiles = 200
	renamedFiles = 50
)

// A Set is a directory and how large it is.
type Set struct {
	Dir string
	// Scale is the part of the full size: 20,000 files of 1 to 16 KiB and 4 of 512 MiB.
	// The changes are in proportion.
	Scale float64
}

// Bytes is about what the files hold.
func (s Set) Bytes() int64 { return s.bytes(largeFiles*largeSize + smallFiles*(8<<10)) }

// count scales a number of files.
func (s Set) count(full int) int { return max(1, int(s.Scale*float64(full))) }

func (s Set) bytes(full int64) int64 { return int64(s.Scale * float64(full)) }

// Make makes the directory, which is not there yet.
func (s Set) Make() error {
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same in every run
	for i := range s.count(smallFiles) {
		path := s.small(i)
		if i%filesPerDir == 0 {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(path, text(rng, 1<<10+rng.IntN(15<<10)), 0o644); err != nil {
			return err
		}
	}
	for i := range largeFiles {
		if err := s.makeLarge(i); err != nil {
			return err
		}
	}
	return nil
}

func (s Set) small(i int) string {
	return filepath.Join(s.Dir, fmt.Sprintf("small/%03d/file%05d", i/filesPerDir, i))
}

func (s Set) large(i int) string { return filepath.Join(s.Dir, fmt.Sprintf("large%d", i)) }

// text is compressible to about a half, as sources and documents are.
func text(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = "etaoin shrdlu\nETAOIN SHRDLU{}()"[rng.IntN(31)]
	}
	return b
}

// random is an endless reader of random bytes.
func random(seed int) io.Reader {
	var key [32]byte
	key[0] = byte(seed)
	return rand.NewChaCha8(key)
}

func (s Set) makeLarge(i int) error {
	f, err := os.Create(s.large(i))
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, random(i), s.bytes(largeSize)); err != nil {
		return err
	}
	return f.Close()
}

// Change makes the second version of the directory.
func (s Set) Change() error {
	for _, change := range []func() error{s.edit, s.rewrite, s.insert, s.remove, s.rename} {
		if err := change(); err != nil {
			return err
		}
	}
	return nil
}

// edit appends to some small files.
func (s Set) edit() error {
	for i := 0; i < s.count(smallFiles); i += editedEach {
		f, err := os.OpenFile(s.small(i), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		if _, err := f.WriteString("edited\n"); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// rewrite gives the middle of the first large file other content, in place.
func (s Set) rewrite() error {
	f, err := os.OpenFile(s.large(0), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.Seek(s.bytes(largeSize-rewritten)/2, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.CopyN(f, random(100), s.bytes(rewritten)); err != nil {
		return err
	}
	return f.Close()
}

// insert puts bytes before the second large file's, as an editor would: into a new file.
func (s Set) insert() error {
	old, err := os.Open(s.large(1))
	if err != nil {
		return err
	}
	defer old.Close() // it was only read
	f, err := os.Create(s.large(1) + ".new")
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, random(101), s.bytes(inserted)); err != nil {
		return err
	}
	if _, err := io.Copy(f, old); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), s.large(1))
}

// remove deletes small files from the middle on: at full scale, one whole directory's.
func (s Set) remove() error {
	first := s.count(smallFiles) / 2
	for i := first; i < first+s.count(deletedFiles); i++ {
		if err := os.Remove(s.small(i)); err != nil {
			return err
		}
	}
	return nil
}

// rename renames small files from the first quarter on.
func (s Set) rename() error {
	first := s.count(smallFiles) / 4
	for i := first; i < first+s.count(renamedFiles); i++ {
		if err := os.Rename(s.small(i), s.small(i)+".renamed"); err != nil {
			return err
		}
	}
	return nil
}
