package replication

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// versions makes a list out of words: "@name" or "#name" and, after a colon, the GUID.
// Their order is their age, unless a CreateTXG follows after another colon.
func versions(words string) []*pdu.FilesystemVersion {
	var list []*pdu.FilesystemVersion
	for i, word := range strings.Fields(words) {
		v := &pdu.FilesystemVersion{CreateTXG: uint64(i + 1)}
		if word[0] == '#' {
			v.Type = pdu.FilesystemVersion_Bookmark
		}
		name, numbers, _ := strings.Cut(word[1:], ":")
		v.Name = name
		if _, err := fmt.Sscanf(numbers, "%d:%d", &v.Guid, &v.CreateTXG); err != nil && v.Guid == 0 && numbers != "0" {
			panic(err)
		}
		list = append(list, v)
	}
	return list
}

// describe writes a plan's steps as "from>to", with a "+" where a token is used.
func describe(p plan) string {
	var words []string
	for _, s := range p.steps {
		word := versionName(s.from) + ">" + versionName(s.to)
		if s.token != "" {
			word += "+"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func TestMakePlan(t *testing.T) {
	tests := []struct {
		name     string
		sender   string
		receiver string
		policy   InitialPolicy
		token    string
		resume   *endpoint.ResumeStep
		want     string
		note     string
		empty    bool
	}{
		{name: "nothing anywhere", empty: true},
		{name: "nothing to send, receiver has versions", receiver: "@a:1", empty: true},
		{name: "only bookmarks on the sender", sender: "#a:1", empty: true},
		{name: "initial, most recent", sender: "@a:1 @b:2 @c:3", policy: InitialMostRecent, want: ">@c"},
		{name: "initial, all", sender: "@a:1 @b:2 @c:3", policy: InitialAll, want: ">@a @a>@b @b>@c"},
		{name: "initial skips bookmarks", sender: "#x:9 @a:1 #y:8", policy: InitialAll, want: ">@a"},
		{name: "up to date", sender: "@a:1 @b:2", receiver: "@a:1 @b:2"},
		{name: "incremental path", sender: "@a:1 @b:2 @c:3 @d:4", receiver: "@a:1 @b:2", want: "@b>@c @c>@d"},
		{name: "incremental, whatever the policy", sender: "@a:1 @b:2", receiver: "@a:1", policy: InitialFail, want: "@a>@b"},
		{name: "names do not matter", sender: "@x:1 @b:2", receiver: "@a:1", want: "@x>@b"},
		{name: "receiver keeps older ones", sender: "@c:3 @d:4", receiver: "@a:1 @b:2 @c:3", want: "@c>@d"},
		{name: "from a bookmark", sender: "#a:1 @b:2", receiver: "@a:1", want: "#a>@b"},
		{name: "snapshot before bookmark", sender: "#a:1:1 @a:1:1 @b:2:2", receiver: "@a:1", want: "@a>@b"},
		{name: "snapshot before bookmark, listed the other way", sender: "@a:1:1 #a:1:1 @b:2:2", receiver: "@a:1", want: "@a>@b"},
		{name: "several bookmarks of one version", sender: "#a:1:1 #a2:1:1 @b:2:2", receiver: "@a:1", want: "#a>@b"},
		{name: "bookmarks on the way are skipped", sender: "@a:1 #b:2 @c:3", receiver: "@a:1", want: "@a>@c"},
		{name: "bookmarks of the receiver are ignored", sender: "@a:1 @b:2", receiver: "@a:1 #b:2", want: "@a>@b"},
		{name: "unsorted lists", sender: "@c:3:30 @a:1:10 @b:2:20", receiver: "@b:2:2 @a:1:1", want: "@b>@c"},
		{name: "same CreateTXG", sender: "@a:1:5 @b:2:5 @c:3:5", receiver: "@a:1", want: "@a>@b @b>@c"},

		{name: "unread token", sender: "@a:1 @b:2 @c:3", receiver: "@a:1", token: "t", want: "@a>@b+ @b>@c"},
		{name: "unread token, initial", sender: "@a:1 @b:2", token: "t", want: ">@b+"},
		{name: "unread token, nothing to do", sender: "@a:1", receiver: "@a:1", token: "t", note: "nothing to send"},
		{name: "resume incremental", sender: "@a:1 @b:2 @c:3", receiver: "@a:1", token: "t",
			resume: &endpoint.ResumeStep{FromGUID: 1, ToGUID: 2}, want: "@a>@b+ @b>@c"},
		{name: "resume a step over several versions", sender: "@a:1 @b:2 @c:3 @d:4", receiver: "@a:1", token: "t",
			resume: &endpoint.ResumeStep{FromGUID: 1, ToGUID: 3}, want: "@a>@c+ @c>@d"},
		{name: "resume initial of an older version", sender: "@a:1 @b:2 @c:3", token: "t",
			resume: &endpoint.ResumeStep{ToGUID: 1}, want: ">@a+ @a>@b @b>@c"},
		{name: "resume initial despite the policy", sender: "@a:1 @b:2", token: "t", policy: InitialFail,
			resume: &endpoint.ResumeStep{ToGUID: 1}, want: ">@a+ @a>@b"},
		{name: "resume from a bookmark", sender: "#a:1 @b:2", receiver: "@a:1", token: "t",
			resume: &endpoint.ResumeStep{FromGUID: 1, ToGUID: 2}, want: "#a>@b+"},
		{name: "token's version is gone", sender: "@a:1 @c:3", receiver: "@a:1", token: "t",
			resume: &endpoint.ResumeStep{FromGUID: 1, ToGUID: 2}, want: "@a>@c", note: "no snapshot with guid 0000000000000002"},
		{name: "token's version is a bookmark by now", sender: "@a:1 #b:2 @c:3", receiver: "@a:1", token: "t",
			resume: &endpoint.ResumeStep{FromGUID: 1, ToGUID: 2}, want: "@a>@c", note: "dropped"},
		{name: "token from another version", sender: "@a:1 @b:2 @c:3", receiver: "@a:1 @b:2", token: "t",
			resume: &endpoint.ResumeStep{FromGUID: 1, ToGUID: 3}, want: "@b>@c", note: "starts from guid 0000000000000001"},
		{name: "token of a full step, receiver has versions", sender: "@a:1 @b:2", receiver: "@a:1", token: "t",
			resume: &endpoint.ResumeStep{ToGUID: 2}, want: "@a>@b", note: "starts from guid 0000000000000000"},
		{name: "token for a version that is there", sender: "@a:1 @b:2", receiver: "@a:1 @b:2", token: "t",
			resume: &endpoint.ResumeStep{FromGUID: 2, ToGUID: 1}, note: "not newer"},
		{name: "token for no version", sender: "@a:1 @b:2", receiver: "@a:1", token: "t",
			resume: &endpoint.ResumeStep{}, want: "@a>@b", note: "dropped"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := makePlan(planInput{
				filesystem: "docs", sender: versions(tt.sender), receiver: versions(tt.receiver),
				policy: tt.policy, token: tt.token, resume: tt.resume,
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := describe(p); got != tt.want {
				t.Errorf("steps are %q, want %q", got, tt.want)
			}
			if notes := strings.Join(p.notes, "\n"); (tt.note == "") != (notes == "") || !strings.Contains(notes, tt.note) {
				t.Errorf("notes are %q, want %q", notes, tt.note)
			}
			if p.empty != tt.empty {
				t.Errorf("empty is %v", p.empty)
			}
		})
	}
}

func TestMakePlanErrors(t *testing.T) {
	tests := []struct {
		name     string
		sender   string
		receiver string
		policy   InitialPolicy
		want     error
	}{
		{"initial policy fail", "@a:1", "", InitialFail, ErrInitial},
		{"no common version", "@a:1 @b:2", "@x:7", "", ErrDiverged},
		{"receiver has newer ones", "@a:1 @b:2", "@a:1 @x:7", "", ErrDiverged},
		{"only a bookmark is common, and not newest", "#a:1 @b:2", "@a:1 @x:7", "", ErrDiverged},
		{"guid 0 on the sender", "@a:0", "", "", ErrProtocol},
		{"guid 0 on the receiver", "@a:1", "@a:0", "", ErrProtocol},
		{"two snapshots with one guid", "@a:1 @b:1", "", "", ErrProtocol},
		{"two snapshots with one name", "@a:1 @a:2", "", "", ErrProtocol},
		{"no name", "@:1", "", "", ErrProtocol},
	}
	for _, tt := range tests {
		in := planInput{filesystem: "docs", sender: versions(tt.sender), receiver: versions(tt.receiver), policy: tt.policy}
		if p, err := makePlan(in); !errors.Is(err, tt.want) {
			t.Errorf("%s: %q, %v, want %v", tt.name, describe(p), err, tt.want)
		}
	}
}

func TestMakePlanMalformedEntries(t *testing.T) {
	good := versions("@a:1")
	for name, bad := range map[string]*pdu.FilesystemVersion{
		"nil":          nil,
		"empty":        {},
		"unknown type": {Type: 7, Name: "b", Guid: 2},
	} {
		for _, in := range []planInput{
			{sender: append(slices.Clone(good), bad)},
			{sender: good, receiver: append(slices.Clone(good), bad)},
		} {
			if _, err := makePlan(in); !errors.Is(err, ErrProtocol) {
				t.Errorf("%s: %v, want %v", name, err, ErrProtocol)
			}
		}
	}
}

func TestDivergedErrorListsBothSides(t *testing.T) {
	_, err := makePlan(planInput{filesystem: "docs", sender: versions("@a:1 @b:2"), receiver: versions("@a:1 @x:7")})
	var diverged *DivergedError
	if !errors.As(err, &diverged) {
		t.Fatalf("error is %v", err)
	}
	if len(diverged.Sender) != 2 || len(diverged.Receiver) != 2 || diverged.Common.GetName() != "a" || diverged.Filesystem != "docs" {
		t.Errorf("error is %+v", diverged)
	}
	for _, part := range []string{"both sides is @a", "sender has @a (guid 0000000000000001), @b", "receiver has @a", "@x (guid 0000000000000007)", "to go on, remove from the receiver"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("message %q lacks %q", err, part)
		}
	}
	var many strings.Builder
	for i := range 100 {
		fmt.Fprintf(&many, "@v%d:%d ", i, i+1)
	}
	_, err = makePlan(planInput{filesystem: "docs", sender: versions(many.String()), receiver: versions("@x:777")})
	if !strings.Contains(err.Error(), "90 older, @v90") || !strings.Contains(err.Error(), "no version is on both sides") ||
		!strings.Contains(err.Error(), "to go on, move the receiver's filesystem out of the way") {
		t.Errorf("message is %q", err)
	}
}

// FuzzMakePlan: whatever two peers list, the plan is a chain of the sender's snapshots
// that starts where the receiver is.
func FuzzMakePlan(f *testing.F) {
	f.Add([]byte{1, 2, 3}, []byte{1}, uint8(0), uint8(0))
	f.Add([]byte{1, 0x81, 3}, []byte{1}, uint8(1), uint8(3))
	f.Add([]byte{1, 1}, []byte{0}, uint8(0), uint8(0))
	f.Fuzz(func(t *testing.T, sender, receiver []byte, from, to uint8) {
		in := planInput{sender: fuzzVersions(sender), receiver: fuzzVersions(receiver), policy: InitialAll}
		if to > 0 {
			in.token, in.resume = "t", &endpoint.ResumeStep{FromGUID: uint64(from), ToGUID: uint64(to)}
		}
		p, err := makePlan(in)
		if err != nil {
			return
		}
		for i, s := range p.steps {
			if i > 0 && s.from != p.steps[i-1].to {
				t.Errorf("step %d does not follow the one before: %s", i, describe(p))
			}
			if !slices.Contains(in.sender, s.to) || s.to.Type != pdu.FilesystemVersion_Snapshot {
				t.Errorf("step %d is to no snapshot of the sender: %s", i, describe(p))
			}
		}
		if len(p.steps) > 0 && (p.steps[0].from == nil) != (len(snapshotsOf(in.receiver)) == 0) {
			t.Errorf("first step: %s", describe(p))
		}
	})
}

// fuzzVersions makes a version of each byte: the top bit is its type, the rest its GUID.
func fuzzVersions(b []byte) []*pdu.FilesystemVersion {
	var list []*pdu.FilesystemVersion
	for i, c := range b {
		list = append(list, &pdu.FilesystemVersion{
			Type: pdu.FilesystemVersion_VersionType(c >> 7), Name: fmt.Sprint("v", i), Guid: uint64(c & 0x7f), CreateTXG: uint64(c&3) + 1,
		})
	}
	return list
}
