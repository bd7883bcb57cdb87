package quickstart

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// The sample that stands for the user's directory where none is named: about
// 100 MiB in 3,000 small files and four large ones.
const (
	sampleDirs      = 50
	samplePerDir    = 60
	sampleSmallMax  = 24 << 10 // bytes; 12 KiB on average
	sampleLarge     = 4
	sampleLargeSize = 16 << 20 // bytes
	sampleHole      = 64 << 20 // bytes that take no space
)

// makeSample fills a new directory at root. Its content is the same each time.
func makeSample(root string) error {
	random := rand.NewChaCha8([32]byte{'d', 'u', 'a', 'l'})
	for i := range sampleDirs {
		if err := makeSampleDir(filepath.Join(root, fmt.Sprintf("notes-%02d", i)), random); err != nil {
			return err
		}
	}
	for i := range sampleLarge {
		if err := writeRandom(filepath.Join(root, fmt.Sprintf("photo-%d.raw", i)), random, sampleLargeSize); err != nil {
			return err
		}
	}
	return makeSpecials(root)
}

func makeSampleDir(dir string, random *rand.ChaCha8) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := range samplePerDir {
		size := int(random.Uint64() % sampleSmallMax)
		if err := writeRandom(filepath.Join(dir, fmt.Sprintf("note-%02d.bin", i)), random, size); err != nil {
			return err
		}
	}
	return nil
}

func writeRandom(path string, random *rand.ChaCha8, size int) error {
	data := make([]byte, size)
	_, _ = random.Read(data) // never fails
	return os.WriteFile(path, data, 0o644)
}

// makeSpecials adds what a naive copy loses: a symlink, a hard link, an empty
// directory and a file that is one large hole.
func makeSpecials(root string) error {
	if err := os.Symlink("notes-00/note-00.bin", filepath.Join(root, "first-note")); err != nil {
		return err
	}
	if err := os.Link(filepath.Join(root, "photo-0.raw"), filepath.Join(root, "photo-0-linked.raw")); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(root, "empty"), 0o755); err != nil {
		return err
	}
	sparse := filepath.Join(root, "sparse.img")
	if err := os.WriteFile(sparse, []byte("only the beginning is data"), 0o644); err != nil {
		return err
	}
	return os.Truncate(sparse, sampleHole)
}
