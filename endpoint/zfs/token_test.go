package zfs

import (
	"errors"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
)

// tokenOutput is of OpenZFS 2.1.11, for a raw incremental step.
const tokenOutput = `resume token contents:
nvlist version: 0
	fromguid = 0xe6d61b22bd661220
	object = 0x80
	offset = 0x100000
	bytes = 0x122bdc
	toguid = 0xa6bd9ef5f4a4443c
	toname = a/enc@2
	compressok = 1
	rawok = 1
send from a/enc@1 to a/enc@2 estimated size is 933K
total estimated size is 933K
`

func TestParseToken(t *testing.T) {
	got, err := parseToken([]byte(tokenOutput))
	want := resumeToken{fromGUID: 0xe6d61b22bd661220, toGUID: 0xa6bd9ef5f4a4443c, toName: "a/enc@2", raw: true}
	if err != nil || got != want {
		t.Errorf("token is %+v, %v", got, err)
	}
	full := strings.Replace(strings.Replace(tokenOutput, "\tfromguid = 0xe6d61b22bd661220\n", "", 1), "\trawok = 1\n", "", 1)
	got, err = parseToken([]byte(full))
	if err != nil || got.fromGUID != 0 || got.raw {
		t.Errorf("token of a full step is %+v, %v", got, err)
	}
	for name, out := range map[string]string{
		"nothing":       "",
		"no To":         strings.Replace(tokenOutput, "\ttoguid = 0xa6bd9ef5f4a4443c\n", "", 1),
		"no number":     strings.Replace(tokenOutput, "0xa6bd9ef5f4a4443c", "x", 1),
		"two datasets":  strings.Replace(tokenOutput, "\tcompressok", "\ttoname = secret/fs@2\n\tcompressok", 1),
		"two GUIDs":     strings.Replace(tokenOutput, "\tcompressok", "\ttoguid = 0x1\n\tcompressok", 1),
		"no such start": strings.Replace(tokenOutput, "resume token contents", "contents", 1),
	} {
		if got, err := parseToken([]byte(out)); !errors.Is(err, endpoint.ErrStaleToken) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(tokenOutput)
	f.Fuzz(func(t *testing.T, out string) {
		got, err := parseToken([]byte(out))
		if err == nil && (got.toGUID == 0 || got.toName == "") || err != nil && !errors.Is(err, endpoint.ErrStaleToken) {
			t.Errorf("token is %+v, %v", got, err)
		}
	})
}

func TestTokenFits(t *testing.T) {
	st := &step{fs: "a/fs", from: &version{name: "1", guid: 1}, to: version{name: "2", guid: 2}}
	tests := []struct {
		name  string
		token resumeToken
		raw   bool
		ok    bool
	}{
		{"fits", resumeToken{fromGUID: 1, toGUID: 2, toName: "a/fs@2"}, false, true},
		{"fits raw", resumeToken{fromGUID: 1, toGUID: 2, toName: "a/fs@2", raw: true}, true, true},
		{"other filesystem", resumeToken{fromGUID: 1, toGUID: 2, toName: "a/other@2"}, false, false},
		{"other To", resumeToken{fromGUID: 1, toGUID: 3, toName: "a/fs@2"}, false, false},
		{"other From", resumeToken{fromGUID: 3, toGUID: 2, toName: "a/fs@2"}, false, false},
		{"full", resumeToken{toGUID: 2, toName: "a/fs@2"}, false, false},
		{"raw where it must not be", resumeToken{fromGUID: 1, toGUID: 2, toName: "a/fs@2", raw: true}, false, false},
		{"plain where it must not be", resumeToken{fromGUID: 1, toGUID: 2, toName: "a/fs@2"}, true, false},
	}
	for _, tt := range tests {
		if err := tt.token.fits(st, tt.raw); (err == nil) != tt.ok || err != nil && !errors.Is(err, endpoint.ErrStaleToken) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestReadToken(t *testing.T) {
	// As on a machine that does not have the snapshot.
	p := fake(t, "cat <<'EOF'\n"+tokenOutput+"EOF\necho \"cannot resume send: 'a/enc@2' used in the initial send no longer exists\" >&2\nexit 255")
	got, err := p.readResumeStep(t.Context(), "1-abc-d")
	if want := (endpoint.ResumeStep{FromGUID: 0xe6d61b22bd661220, ToGUID: 0xa6bd9ef5f4a4443c}); err != nil || got != want {
		t.Errorf("step is %+v, %v", got, err)
	}
	for _, token := range []string{"", "-x", "--help", "1-\n", "1-\x00", "X", strings.Repeat("a", maxToken+1)} {
		if _, err := p.readToken(t.Context(), token); !errors.Is(err, endpoint.ErrStaleToken) {
			t.Errorf("%.20q: %v", token, err)
		}
	}
	if n := p.starts.Load(); n != 1 {
		t.Errorf("%d processes", n)
	}
	_, err = newProgram("/nonexistent/zfs", nil).readToken(t.Context(), "1-a")
	if err == nil || errors.Is(err, endpoint.ErrStaleToken) {
		t.Errorf("without the program: %v", err)
	}
}

func TestParseEstimate(t *testing.T) {
	for out, want := range map[string]uint64{
		"full\ta/fs@2\t2115056\nsize\t2115056\n":                         2115056,
		"incremental\ta/enc@1\ta/enc@2\t955412\nsize\t955412\n":          955412,
		"resume token contents:\nfull\ta/fs@2\t1016920\nsize\t1016920\n": 1016920,
		"size\tx\n": 0,
		"":          0,
	} {
		if got := parseEstimate([]byte(out)); got != want {
			t.Errorf("%q: %d, want %d", out, got, want)
		}
	}
}
