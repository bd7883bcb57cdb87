package transport

import (
	"context"
	"strings"
	"testing"
)

func TestValidateClientIdentity(t *testing.T) {
	for _, test := range []struct {
		id    string
		valid bool
	}{
		{"alice", true},
		{"10.0.0.1", true},
		{"fe80::1-eth0", true},
		{"...", true},
		{"a b", true},
		{"zoë", true},
		{strings.Repeat("x", 255), true},
		{strings.Repeat("x", 256), false},
		{"", false},
		{".", false},
		{"..", false},
		{"a/b", false},
		{"a@b", false},
		{"#a", false},
		{"a\x00", false},
		{"a\nb", false},
		{"a\x7f", false},
		{"a\u0085", false},
		{"a\xff", false},
	} {
		err := ValidateClientIdentity(test.id)
		if (err == nil) != test.valid {
			t.Errorf("ValidateClientIdentity(%q) = %v, want valid: %t", test.id, err, test.valid)
		}
	}
}

func TestClientIdentityInContext(t *testing.T) {
	if id, ok := ClientIdentityFromContext(context.Background()); ok {
		t.Errorf("identity %q in an empty context", id)
	}
	ctx := ContextWithClientIdentity(t.Context(), "alice")
	if id, ok := ClientIdentityFromContext(ctx); !ok || id != "alice" {
		t.Errorf("identity %q, %t, want alice", id, ok)
	}
}
