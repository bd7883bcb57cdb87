package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxClientIdentity is the longest client identity in bytes: NAME_MAX, what a
// path component may have on Linux file systems.
const MaxClientIdentity = 255

// ValidateClientIdentity tells whether id may be used as one component of a
// filesystem's path. It refuses "", ".", "..", '/', '@' and '#' (which separate
// the parts of a version's name), control characters, text that is not UTF-8, and
// more than MaxClientIdentity bytes.
func ValidateClientIdentity(id string) error {
	if err := checkClientIdentity(id); err != nil {
		return fmt.Errorf("client identity %q: %w", id, err)
	}
	return nil
}

func checkClientIdentity(id string) error {
	switch {
	case id == "":
		return errors.New("is empty")
	case id == "." || id == "..":
		return errors.New("is a relative path")
	case len(id) > MaxClientIdentity:
		return fmt.Errorf("has %d bytes, more than %d", len(id), MaxClientIdentity)
	case !utf8.ValidString(id):
		return errors.New("is not UTF-8")
	}
	if i := strings.IndexAny(id, "/@#"); i >= 0 {
		return fmt.Errorf("contains %q", id[i])
	}
	if strings.ContainsFunc(id, unicode.IsControl) {
		return errors.New("contains a control character")
	}
	return nil
}

type clientIdentityKey struct{}

// ContextWithClientIdentity returns a context that carries id to the handlers of
// both channels. The caller has validated it.
func ContextWithClientIdentity(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, clientIdentityKey{}, id)
}

// ClientIdentityFromContext returns the identity of the client that a handler's
// call came from; false outside of a call.
func ClientIdentityFromContext(ctx context.Context) (string, bool) {
	id, ok := ctx.Value(clientIdentityKey{}).(string)
	return id, ok
}
