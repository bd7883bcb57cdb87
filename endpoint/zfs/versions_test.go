package zfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// listOutput is of OpenZFS 2.1.11.
const listOutput = `a/enc@1	4338741418887225485	19	1795311967	0
a/fs@1	5629165875667606106	15	1795311967	1
a/fs@2	3785277642846647301	16	1795311967	1
a/fs@10	2220414833000966381	17	1795311967	0
a/fs#bm	5629165875667606106	15	1795311967	-
a/fs#zrepl_CURSOR_G_34880f1fe1a34056_J_x	3785277642846647301	16	1795311967	-
`

func TestParseVersions(t *testing.T) {
	at := time.Unix(1795311967, 0)
	want := map[string][]version{
		"a/enc": {{name: "1", guid: 4338741418887225485, createTXG: 19, creation: at}},
		"a/fs": {
			{name: "bm", bookmark: true, guid: 5629165875667606106, createTXG: 15, creation: at},
			{name: "1", guid: 5629165875667606106, createTXG: 15, creation: at, userRefs: 1},
			{name: "zrepl_CURSOR_G_34880f1fe1a34056_J_x", bookmark: true, guid: 3785277642846647301, createTXG: 16, creation: at},
			{name: "2", guid: 3785277642846647301, createTXG: 16, creation: at, userRefs: 1},
			{name: "10", guid: 2220414833000966381, createTXG: 17, creation: at},
		},
	}
	log := slog.New(slog.DiscardHandler)
	if got := parseVersions([]byte(listOutput), log); !reflect.DeepEqual(got, want) {
		t.Errorf("versions are %+v, want %+v", got, want)
	}
	for _, line := range []string{
		"a/fs\t1\t1\t1\t0", "a/fs@%x\t1\t1\t1\t0", "a/%recv@1\t1\t1\t1\t0", "a/fs@1\t0\t1\t1\t0", "a/fs@1\t1\t0\t1\t0",
		"a/fs@1\t-1\t1\t1\t0", "a/fs@1\t1\tx\t1\t0", "a/fs@1\t1\t1\tx\t0", "a/fs@1\t1\t1\t1\tx", "a/fs@1\t1\t1\t1", "-r@1\t1\t1\t1\t0",
	} {
		if got := parseVersions([]byte(line), log); len(got) != 0 {
			t.Errorf("%q is %+v", line, got)
		}
	}
}

func TestVersionPDU(t *testing.T) {
	v := version{name: "x", bookmark: true, guid: 7, createTXG: 8, creation: time.Unix(0, 0)}
	want := &pdu.FilesystemVersion{Type: pdu.FilesystemVersion_Bookmark, Name: "x", Guid: 7, CreateTXG: 8, Creation: "1970-01-01T00:00:00Z"}
	if got := v.pdu(); got.String() != want.String() || v.fullName("a/b") != "a/b#x" {
		t.Errorf("%v, %s", got, v.fullName("a/b"))
	}
}

func FuzzParseVersions(f *testing.F) {
	f.Add(listOutput)
	f.Add("a@b#c\t1\t1\t1\t-\n")
	f.Fuzz(func(t *testing.T, out string) {
		for fs, versions := range parseVersions([]byte(out), slog.New(slog.DiscardHandler)) {
			if err := checkDataset(fs); err != nil {
				t.Error(err)
			}
			for _, v := range versions {
				if err := endpoint.ValidateVersionName(v.name); err != nil || v.guid == 0 || v.createTXG == 0 {
					t.Errorf("version %+v: %v", v, err)
				}
			}
			if !slices.IsSortedFunc(versions, compareVersions) {
				t.Error("not sorted")
			}
		}
	})
}

// listings is a list function that keeps what it was asked, and fails for datasets that are gone.
type listings struct {
	mu    sync.Mutex
	asked [][]string
	gone  string
	fail  error
}

func (l *listings) list(_ context.Context, datasets ...string) (map[string][]version, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, datasets)
	all := map[string][]version{}
	err := l.fail
	for _, fs := range datasets {
		if fs == l.gone {
			err = endpoint.ErrNotFound
			continue
		}
		all[fs] = []version{{name: "of-" + fs, guid: 1}}
	}
	return all, err
}

func numbered(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("p/%04d", i)
	}
	return names
}

func askAll(t *testing.T, l *versionLister, names []string) {
	t.Helper()
	for _, fs := range names {
		versions, err := l.versions(t.Context(), fs)
		if err != nil || len(versions) != 1 || versions[0].name != "of-"+fs {
			t.Fatalf("versions of %s are %v, %v", fs, versions, err)
		}
	}
}

func TestVersionLister(t *testing.T) {
	names := numbered(1000)
	backwards := slices.Clone(names)
	slices.Reverse(backwards)
	tests := []struct {
		name   string
		do     func(*testing.T, *versionLister)
		starts int
	}{
		{"in order", func(t *testing.T, l *versionLister) { askAll(t, l, names) }, 4},
		{"each second", func(t *testing.T, l *versionLister) {
			for i := 0; i < len(names); i += 2 {
				askAll(t, l, names[i:i+1])
			}
		}, 4},
		{"once only", func(t *testing.T, l *versionLister) {
			askAll(t, l, names[:10])
			askAll(t, l, names[:10])
		}, 11},
		{"changed", func(t *testing.T, l *versionLister) {
			askAll(t, l, names[:1])
			l.changed(names[1])
			askAll(t, l, names[1:3])
		}, 2},
		{"too old", func(t *testing.T, l *versionLister) {
			askAll(t, l, names[:1])
			time.Sleep(versionsKept)
			askAll(t, l, names[1:100])
		}, 2},
		{"listed again", func(t *testing.T, l *versionLister) {
			askAll(t, l, names[:1])
			l.listed("", names)
			askAll(t, l, names[1:2])
		}, 2},
		{"not listed", func(t *testing.T, l *versionLister) {
			l.listed("", nil)
			askAll(t, l, names[:3])
		}, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				from := &listings{}
				l := &versionLister{list: from.list}
				l.listed("", names)
				if tt.do(t, l); len(from.asked) != tt.starts {
					t.Errorf("%d processes, want %d", len(from.asked), tt.starts)
				}
			})
		})
	}
}

// TestVersionListerBackwards: whatever the order, what is kept is bounded.
func TestVersionListerBackwards(t *testing.T) {
	names := numbered(5000)
	from := &listings{}
	l := &versionLister{list: from.list}
	l.listed("", names)
	for i := len(names) - 1; i >= 0; i -= 100 {
		askAll(t, l, names[i:i+1])
		if len(l.kept) > maxVersionsKept+versionBatch {
			t.Fatalf("%d are kept", len(l.kept))
		}
	}
}

// TestVersionListerClients: a client that lists its own does not cost the others what they
// are going to ask for.
func TestVersionListerClients(t *testing.T) {
	from := &listings{}
	l := &versionLister{list: from.list}
	clients := map[string][]string{"p/a": nil, "p/b": nil, "p/a-b": nil}
	for root := range clients {
		for i := range 300 {
			clients[root] = append(clients[root], fmt.Sprintf("%s/%04d", root, i))
		}
	}
	for i := range 300 {
		for root, names := range clients {
			if i == 0 {
				l.listed(root, names)
			}
			askAll(t, l, names[i:i+1])
		}
	}
	if len(from.asked) != 2*len(clients) {
		t.Errorf("%d processes for %d clients", len(from.asked), len(clients))
	}
	for root := range clients {
		l.listed(root, nil)
	}
	if len(l.next) != 0 || len(l.kept) != 0 {
		t.Errorf("%d and %d are kept of nothing", len(l.next), len(l.kept))
	}
}

// TestVersionListerGone: one that vanished after it was listed costs nothing but itself.
func TestVersionListerGone(t *testing.T) {
	names := numbered(200)
	from := &listings{gone: names[100]}
	l := &versionLister{list: from.list}
	l.listed("", names)
	askAll(t, l, names[:100])
	if _, err := l.versions(t.Context(), names[100]); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("of one that is gone: %v", err)
	}
	if askAll(t, l, names[101:]); len(from.asked) != 2 {
		t.Errorf("%d processes", len(from.asked))
	}
}

func TestVersionListerFails(t *testing.T) {
	from := &listings{fail: errors.New("broken")}
	l := &versionLister{list: func(ctx context.Context, datasets ...string) (map[string][]version, error) {
		_, err := from.list(ctx, datasets...)
		return nil, err
	}}
	l.listed("", numbered(2))
	if _, err := l.versions(t.Context(), "p/0000"); err != from.fail {
		t.Errorf("error is %v", err)
	}
	from.fail = nil
	if _, err := l.versions(t.Context(), "p/0001"); err != nil {
		t.Errorf("after a failure: %v", err)
	}
}

// TestVersionListerWaits: who asks while a process lists does not start another one.
func TestVersionListerWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := numbered(8)
		from := &listings{}
		l := &versionLister{list: func(ctx context.Context, datasets ...string) (map[string][]version, error) {
			time.Sleep(time.Second)
			return from.list(ctx, datasets...)
		}}
		l.listed("", names)
		var wg sync.WaitGroup
		for _, fs := range names {
			wg.Go(func() { askAll(t, l, []string{fs}) })
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.versions(ctx, "p/0001"); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if wg.Wait(); len(from.asked) > 2 {
			t.Errorf("%d processes", len(from.asked))
		}
	})
}
