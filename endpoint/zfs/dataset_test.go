package zfs

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
)

// getOutput is of OpenZFS 2.1.11.
const getOutput = `a	receive_resume_token	-	-
a	encryption	default	off
a	zrepl:placeholder	-	-
a/enc	receive_resume_token	-	-
a/enc	encryption	-	aes-256-gcm
a/enc	zrepl:placeholder	-	-
a/fs	receive_resume_token	-	-
a/fs	encryption	default	off
a/fs	zrepl:placeholder	local	on
a/fs/child	receive_resume_token	-	1-971d12db6-b0-789c63
a/fs/child	encryption	default	off
a/fs/child	zrepl:placeholder	inherited from a/fs	on
a/vol	receive_resume_token	-	-
a/vol	encryption	default	off
a/vol	zrepl:placeholder	local	off
`

func TestParseDatasets(t *testing.T) {
	plain := func(name string) dataset { return dataset{name: name, encryption: "off"} }
	tests := []struct {
		name, out string
		want      []dataset
	}{
		{"real", getOutput, []dataset{
			plain("a"),
			{name: "a/enc", encryption: "aes-256-gcm"},
			{name: "a/fs", encryption: "off", placeholder: true},
			{name: "a/fs/child", encryption: "off", token: "1-971d12db6-b0-789c63"},
			plain("a/vol"),
		}},
		{"received placeholder", "a\tencryption\tdefault\toff\na\tzrepl:placeholder\treceived\ton\n", []dataset{plain("a")}},
		// The value of zrepl:placeholder of a/evil is "x\na\tzrepl:placeholder\tlocal\ton".
		{"feigned", "a\tencryption\tdefault\toff\na\tzrepl:placeholder\t-\t-\n" +
			"a/evil\tencryption\tdefault\toff\na/evil\tzrepl:placeholder\tlocal\tx\na\tzrepl:placeholder\tlocal\ton\n",
			[]dataset{plain("a"), plain("a/evil")}},
		{"feigned before", "a/evil\tzrepl:placeholder\tlocal\tx\nb\tzrepl:placeholder\tlocal\ton\n" +
			"b\tencryption\tdefault\toff\nb\tzrepl:placeholder\t-\t-\n",
			[]dataset{{name: "a/evil"}, plain("b")}},
		{"feigned by itself", "a\tencryption\tdefault\toff\na\tzrepl:placeholder\treceived\tx\na\tzrepl:placeholder\tlocal\ton\ny\n",
			[]dataset{plain("a")}},
		{"feigned with tabs", "a\tzrepl:placeholder\treceived\tx\ty\na\tzrepl:placeholder\tlocal\ton\n", []dataset{{name: "a"}}},
		{"feigned encryption", "a\tencryption\tdefault\toff\na\tzrepl:placeholder\tlocal\tx\na\tencryption\t-\taes-256-gcm\n",
			[]dataset{{name: "a"}}},
		{"foreign names", "a/%recv\tencryption\tdefault\toff\n-r\tencryption\tdefault\toff\n\tencryption\tdefault\toff\n", nil},
		{"no lines of ours", "a\tencryption\n\n\t\t\t\n", nil},
	}
	for _, tt := range tests {
		if got := parseDatasets([]byte(tt.out), slog.New(slog.DiscardHandler)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: datasets are %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestCheckDataset(t *testing.T) {
	for _, name := range []string{"a", "Pool/x y", "tank/-r"} {
		if err := checkDataset(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "-r", "-r/x", "9/x", ".x", "/a", "a@b", "a/../b", "_x"} {
		if err := checkDataset(name); !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzParseDatasets(f *testing.F) {
	f.Add(getOutput)
	f.Add("a\tzrepl:placeholder\tlocal\tx\nb\tzrepl:placeholder\tlocal\ton\nb\tzrepl:placeholder\t-\t-\n")
	f.Fuzz(func(t *testing.T, out string) {
		seen := map[string]bool{}
		for _, d := range parseDatasets([]byte(out), slog.New(slog.DiscardHandler)) {
			if err := checkDataset(d.name); err != nil || seen[d.name] {
				t.Errorf("dataset %+v: %v", d, err)
			}
			seen[d.name] = true
			if d.placeholder && !slices.Contains(strings.Split(out, "\n"), d.name+"\t"+placeholderProperty+"\tlocal\ton") {
				t.Errorf("placeholder %+v", d)
			}
		}
	})
}
