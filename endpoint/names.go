package endpoint

import (
	"fmt"
	"strings"
)

// MaxNameLength bounds a filesystem's path and a version's name, in bytes each.
// It is what ZFS allows for a dataset, so that any endpoint's names can be
// replicated to any other.
const MaxNameLength = 255

// ValidateFilesystem checks the path of a filesystem: components of letters,
// digits and "-_.: ", separated by single slashes, none of them "." or "..", at
// most MaxNameLength bytes in all. The error is ErrInvalid.
func ValidateFilesystem(path string) error {
	if err := validateLength("filesystem", path); err != nil {
		return err
	}
	for component := range strings.SplitSeq(path, "/") {
		if err := validateComponent(component); err != nil {
			return fmt.Errorf("filesystem %q: %w", path, err)
		}
	}
	return nil
}

// ValidateVersionName checks the name of a snapshot or bookmark: one component of
// the same alphabet, at most MaxNameLength bytes. The error is ErrInvalid.
func ValidateVersionName(name string) error {
	if err := validateLength("version", name); err != nil {
		return err
	}
	if err := validateComponent(name); err != nil {
		return fmt.Errorf("version %q: %w", name, err)
	}
	return nil
}

func validateLength(what, name string) error {
	if len(name) > MaxNameLength {
		return fmt.Errorf("%w: %s name of %d bytes, at most %d", ErrInvalid, what, len(name), MaxNameLength)
	}
	return nil
}

func validateComponent(c string) error {
	switch c {
	case "":
		return fmt.Errorf("%w: empty component", ErrInvalid)
	case ".", "..":
		return fmt.Errorf("%w: component %q", ErrInvalid, c)
	}
	if i := strings.IndexFunc(c, notInAlphabet); i >= 0 {
		return fmt.Errorf("%w: character %q is not allowed", ErrInvalid, c[i:i+1])
	}
	return nil
}

func notInAlphabet(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.: ", r)
}
