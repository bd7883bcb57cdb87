package prune

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/replication"
)

// fake is a side with filesystems in memory. What a test does not expect to be called
// is the nil Endpoint's.
type fake struct {
	endpoint.Endpoint
	filesystems []*pdu.Filesystem
	versions    map[string][]*pdu.FilesystemVersion
	cursors     map[string]uint64
	listErr     error
	errs        map[string]error  // of ListFilesystemVersions, by filesystem
	cursorErrs  map[string]error  // of ReplicationCursor, by filesystem
	destroyErr  error             // of DestroySnapshots
	held        map[string]string // why a snapshot cannot be destroyed, by name
	results     int               // how many results are left out of an answer

	mu       sync.Mutex
	asked    int   // calls of ListFilesystemVersions and ReplicationCursor
	destroys []int // how many snapshots each DestroySnapshots had
}

// side makes a fake of lists of versions, the oldest first: "@name" or "#name", whose GUID
// the name alone decides.
func side(filesystems map[string]string) *fake {
	f := &fake{versions: map[string][]*pdu.FilesystemVersion{}, cursors: map[string]uint64{}}
	for path, list := range filesystems {
		f.filesystems = append(f.filesystems, &pdu.Filesystem{Path: path})
		place, last := 0, ""
		for v := range strings.FieldsSeq(list) {
			if v[1:] != last { // a bookmark has the place of its snapshot
				place, last = place+1, v[1:]
			}
			f.versions[path] = append(f.versions[path], version(v, place))
		}
	}
	slices.SortFunc(f.filesystems, func(a, b *pdu.Filesystem) int { return strings.Compare(a.Path, b.Path) })
	return f
}

func version(text string, place int) *pdu.FilesystemVersion {
	v := &pdu.FilesystemVersion{
		Name: text[1:], Guid: guid(text[1:]), CreateTXG: uint64(100 + place),
		Creation: noon.Add(time.Duration(place) * time.Hour).Format(time.RFC3339),
	}
	if text[0] == '#' {
		v.Type = pdu.FilesystemVersion_Bookmark
	}
	return v
}

func guid(name string) uint64 {
	n := uint64(1)
	for _, c := range []byte(name) {
		n = n*131 + uint64(c)
	}
	return n
}

func (f *fake) ListFilesystems(context.Context, *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	return &pdu.ListFilesystemRes{Filesystems: f.filesystems}, f.listErr
}

func (f *fake) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return &pdu.ListFilesystemVersionsRes{Versions: slices.Clone(f.versions[req.Filesystem])}, errors.Join(ctx.Err(), f.errs[req.Filesystem])
}

func (f *fake) ReplicationCursor(_ context.Context, req *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if at := f.cursors[req.Filesystem]; at != 0 {
		return &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Guid{Guid: at}}, f.cursorErrs[req.Filesystem]
	}
	return &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Notexist{Notexist: true}}, f.cursorErrs[req.Filesystem]
}

func (f *fake) DestroySnapshots(_ context.Context, req *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.destroys = append(f.destroys, len(req.Snapshots))
	if f.destroyErr != nil {
		return nil, f.destroyErr
	}
	res := &pdu.DestroySnapshotsRes{}
	for _, s := range req.Snapshots {
		why := f.held[s.Name]
		if why == "" {
			f.versions[req.Filesystem] = slices.DeleteFunc(f.versions[req.Filesystem], func(v *pdu.FilesystemVersion) bool {
				return v.Type == s.Type && v.Name == s.Name
			})
		}
		res.Results = append(res.Results, &pdu.DestroySnapshotRes{Snapshot: s, Error: why})
	}
	res.Results = res.Results[:len(res.Results)-f.results]
	return res, nil
}

// left are the versions of a filesystem.
func (f *fake) left(path string) string {
	var all []string
	for _, v := range f.versions[path] {
		all = append(all, string("@#"[v.Type])+v.Name)
	}
	return strings.Join(all, " ")
}

func runTarget(t *testing.T, target Target) *Report {
	t.Helper()
	rep, err := Run(t.Context(), target, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestRunSender(t *testing.T) {
	for name, test := range map[string]struct {
		versions string
		cursor   string // "": none
		rules    []Rule
		nobody   bool // nothing is replicated
		left     string
		skipped  string
	}{
		"not replicated":        {versions: "@a @b @c @d", cursor: "c", rules: []Rule{NotReplicated{}}, left: "@c @d"},
		"with the newest":       {versions: "@a @b @c @d", cursor: "d", rules: []Rule{NotReplicated{}, LastN{Count: 2}}, left: "@c @d"},
		"cursor released":       {versions: "@a @b #c @c @d", cursor: "c", rules: []Rule{NotReplicated{ReleaseCursor: true}}, left: "#c @d"},
		"cursor is a bookmark":  {versions: "@a @b #c @d", cursor: "c", rules: []Rule{NotReplicated{}}, left: "#c @d"},
		"no cursor":             {versions: "@a @b", rules: []Rule{NotReplicated{}}, left: "@a @b", skipped: skipNoCursor},
		"no cursor, all kept":   {versions: "@a @b", rules: []Rule{NotReplicated{}, LastN{Count: 2}}, left: "@a @b"},
		"cursor elsewhere":      {versions: "@a @b", cursor: "c", rules: []Rule{NotReplicated{}}, left: "@a @b", skipped: skipNoPlace},
		"rules alone":           {versions: "@a @b @c", rules: []Rule{LastN{Count: 1}}, left: "@c"},
		"rules alone at cursor": {versions: "@a @b @c", cursor: "a", rules: []Rule{LastN{Count: 1}}, left: "@a @c"},
		"only the cursor goes":  {versions: "@a @b", cursor: "a", rules: []Rule{LastN{Count: 1}}, left: "@a @b"},
		"bookmarks stay":        {versions: "#a @b #c", cursor: "c", rules: []Rule{Regex{Negate: true}}, left: "#a #c"},
		"no rules":              {versions: "@a @b", cursor: "b", left: "@a @b"},
		"snap job":              {versions: "@a @b", nobody: true, rules: []Rule{LastN{Count: 1}}, left: "@b"},
		"snap job, cursor":      {versions: "@a @b", nobody: true, rules: []Rule{NotReplicated{}}, left: "@a @b", skipped: skipNoPeer},
		"no snapshots":          {versions: "", rules: []Rule{NotReplicated{}}, left: ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := side(map[string]string{"pool/fs": test.versions})
			if test.cursor != "" {
				f.cursors["pool/fs"] = guid(test.cursor)
			}
			target := Target{Name: Sender, Endpoint: f, Cursors: f, Rules: test.rules}
			if test.nobody {
				target.Cursors = nil
			}
			rep := runTarget(t, target)
			checkOutcome(t, rep, f, test.left, test.skipped)
			if again := runTarget(t, target); again.Destroyed() != 0 {
				t.Errorf("a second run: %+v", again)
			}
		})
	}
}

// checkOutcome checks the one filesystem of a test.
func checkOutcome(t *testing.T, rep *Report, f *fake, left, skipped string) {
	t.Helper()
	if got := f.left("pool/fs"); got != left {
		t.Errorf("left are %q, want %q", got, left)
	}
	if len(rep.Filesystems) != 1 {
		if skipped != "" {
			t.Errorf("report of %d filesystems", len(rep.Filesystems))
		}
		return
	}
	fs := rep.Filesystems[0]
	if fs.Skipped != skipped {
		t.Errorf("skipped for %q, want %q", fs.Skipped, skipped)
	}
	if kept := strings.Count(left, "@"); fs.Kept != kept {
		t.Errorf("%d are reported as kept, want %d", fs.Kept, kept)
	}
}

func TestRunReceiver(t *testing.T) {
	none := []Rule{Regex{Negate: true}} // keeps nothing
	for name, test := range map[string]struct {
		sender, receiver, cursor string
		rules                    []Rule
		left, skipped            string
	}{
		"newest":                 {"@b @c", "@a @b @c", "c", none, "@c", ""},
		"sender has newer ones":  {"@b @c", "@a @b", "b", none, "@b", ""},
		"sender has a bookmark":  {"#b @c", "@a @b", "b", none, "@b", ""},
		"without a cursor":       {"@b @c", "@a @b", "", none, "@b", ""},
		"cursor is behind":       {"@a @b @c", "@a @b", "a", none, "@b", ""},
		"receiver has newer":     {"@a @b", "@a @b @x", "b", none, "@b", ""},
		"kept anyway":            {"@b @c", "@a @b", "b", []Rule{LastN{Count: 1}}, "@b", ""},
		"nothing in common":      {"@x @y", "@a @b", "y", none, "@a @b", skipDiverged},
		"nothing on the sender":  {"", "@a @b", "", none, "@a @b", skipDiverged},
		"not replicated":         {"@a @b @c", "@a @b @c", "b", []Rule{NotReplicated{}}, "@b @c", ""},
		"not replicated, behind": {"@a @b @c", "@a @b", "c", []Rule{NotReplicated{}}, "@a @b", skipNoPlace},
	} {
		t.Run(name, func(t *testing.T) {
			sender, receiver := side(map[string]string{"pool/fs": test.sender}), side(map[string]string{"pool/fs": test.receiver})
			if test.cursor != "" {
				sender.cursors["pool/fs"] = guid(test.cursor)
			}
			rep := runTarget(t, Target{Name: Receiver, Endpoint: receiver, Cursors: sender, Rules: test.rules})
			checkOutcome(t, rep, receiver, test.left, test.skipped)
		})
	}
}

// A filesystem that the sender does not have, or not as a real one, is not the job's.
func TestRunOtherFilesystems(t *testing.T) {
	sender := side(map[string]string{"a": "@1 @2", "a/b": "@1 @2", "c": "@1 @2", "d": "@1 @2"})
	receiver := side(map[string]string{"a": "@1 @2", "a/b": "@1 @2", "c": "@1 @2", "d": "@1 @2", "gone": "@1 @2"})
	sender.filesystems[2].IsPlaceholder = true
	receiver.filesystems[0].IsPlaceholder = true
	rep := runTarget(t, Target{
		Name: Receiver, Endpoint: receiver, Cursors: sender, Rules: []Rule{LastN{Count: 1}},
		Filter: func(path string) bool { return path != "d" },
	})
	if len(rep.Filesystems) != 1 || rep.Filesystems[0].Filesystem != "a/b" || rep.Destroyed() != 1 {
		t.Errorf("report is %+v, want one of a/b", rep)
	}
}

// Where all is kept anyway, nobody is asked for what was replicated.
func TestRunAsksNoMoreThanNeeded(t *testing.T) {
	sender, receiver := side(map[string]string{"a": "@1 @2"}), side(map[string]string{"a": "@1 @2"})
	runTarget(t, Target{Name: Receiver, Endpoint: receiver, Cursors: sender, Rules: []Rule{NotReplicated{}, LastN{Count: 2}}})
	runTarget(t, Target{Name: Receiver, Endpoint: nil, Cursors: nil})
	if sender.asked != 0 || receiver.asked != 1 || len(receiver.destroys) != 0 {
		t.Errorf("the sender was asked %d times, the receiver %d", sender.asked, receiver.asked)
	}
}

func TestRunInBatches(t *testing.T) {
	var list strings.Builder
	for i := range 2*batchSize + 51 {
		fmt.Fprintf(&list, "@%d ", i)
	}
	f := side(map[string]string{"pool/fs": list.String()})
	f.held = map[string]string{"7": "held by somebody", "130": "busy"}
	rep, err := Run(t.Context(), Target{Name: Sender, Endpoint: f, Rules: []Rule{LastN{Count: 1}}}, nil)
	if !slices.Equal(f.destroys, []int{batchSize, batchSize, 50}) {
		t.Errorf("calls with %v snapshots", f.destroys)
	}
	want := `filesystem "pool/fs": snapshot "7" and 1 more were not destroyed: held by somebody`
	if err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
	fs := rep.Filesystems[0]
	if !slices.Equal(fs.Failed, []Failure{{"7", "held by somebody"}, {"130", "busy"}}) || rep.Destroyed() != 2*batchSize+48 || fs.Kept != 1 {
		t.Errorf("failed %v, destroyed %d, kept %d", fs.Failed, rep.Destroyed(), fs.Kept)
	}
}

// Whatever fails in one filesystem, the others are pruned.
func TestRunFailures(t *testing.T) {
	lost := errors.New("connection lost")
	for name, test := range map[string]struct {
		spoil func(sender, receiver *fake)
		want  error
	}{
		"versions of the receiver": {func(_, r *fake) { r.errs = map[string]error{"bad": lost} }, lost},
		"versions of the sender":   {func(s, _ *fake) { s.errs = map[string]error{"bad": lost} }, lost},
		"cursor":                   {func(s, _ *fake) { s.cursorErrs = map[string]error{"bad": lost} }, lost},
		"creation":                 {func(_, r *fake) { r.versions["bad"][1].Creation = "yesterday" }, ErrProtocol},
		"no GUID":                  {func(_, r *fake) { r.versions["bad"][1].Guid = 0 }, ErrProtocol},
		"no CreateTXG":             {func(_, r *fake) { r.versions["bad"][1].CreateTXG = 0 }, ErrProtocol},
		"no version":               {func(s, _ *fake) { s.versions["bad"][1] = nil }, ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			filesystems := map[string]string{"a": "@1 @2", "bad": "@1 @2", "c": "@1 @2"}
			sender, receiver := side(filesystems), side(filesystems)
			for path := range filesystems {
				sender.cursors[path] = guid("2")
			}
			test.spoil(sender, receiver)
			rep, err := Run(t.Context(), Target{Name: Receiver, Endpoint: receiver, Cursors: sender, Rules: []Rule{NotReplicated{}}}, nil)
			if !errors.Is(err, test.want) || !errors.Is(rep.Filesystems[1].Err(), test.want) || rep.Filesystems[1].Error == "" {
				t.Errorf("error is %v, want %v", err, test.want)
			}
			if got := receiver.left("a") + receiver.left("c"); got != "@2@2" || len(receiver.versions["bad"]) != 2 || rep.Error != "" {
				t.Errorf("the others have %q; error of the run: %q", got, rep.Error)
			}
		})
	}
}

func TestRunFailsAsAWhole(t *testing.T) {
	lost := errors.New("connection lost")
	stopped, stop := context.WithCancelCause(t.Context())
	stop(lost)
	for name, test := range map[string]struct {
		ctx   context.Context
		spoil func(f *fake, target *Target)
		want  error
	}{
		"list":           {t.Context(), func(f *fake, _ *Target) { f.listErr = lost }, lost},
		"list of sender": {t.Context(), func(_ *fake, target *Target) { target.Name, target.Cursors = Receiver, &fake{listErr: lost} }, lost},
		"no sender":      {t.Context(), func(_ *fake, target *Target) { target.Name, target.Cursors = Receiver, nil }, endpoint.ErrInvalid},
		"no path":        {t.Context(), func(f *fake, _ *Target) { f.filesystems[0].Path = "" }, ErrProtocol},
		"denied":         {t.Context(), func(f *fake, _ *Target) { f.destroyErr = fmt.Errorf("%w: no destroy", endpoint.ErrPermission) }, endpoint.ErrPermission},
		"stopped":        {stopped, func(*fake, *Target) {}, lost},
	} {
		t.Run(name, func(t *testing.T) {
			f := side(map[string]string{"a": "@1 @2", "b": "@1 @2", "c": "@1 @2"})
			target := Target{Name: Sender, Endpoint: f, Cursors: f, Rules: []Rule{LastN{Count: 1}}}
			test.spoil(f, &target)
			rep, err := Run(test.ctx, target, nil)
			if !errors.Is(err, test.want) || rep.Error != err.Error() || rep.Destroyed() != 0 {
				t.Errorf("error is %v, want %v once; report %+v", err, test.want, rep)
			}
		})
	}
}

// What an answer does not tell is not destroyed.
func TestRunMissingResult(t *testing.T) {
	f := side(map[string]string{"pool/fs": "@1 @2 @3"})
	f.results = 1
	rep, err := Run(t.Context(), Target{Name: Sender, Endpoint: f, Rules: []Rule{LastN{Count: 1}}}, nil)
	if !errors.Is(err, ErrProtocol) || !slices.Equal(rep.Filesystems[0].Destroyed, []string{"1"}) {
		t.Errorf("error is %v, report %+v", err, rep)
	}
}

func TestReportJSON(t *testing.T) {
	f := side(map[string]string{"a": "@1 @2", "b": "@1"})
	f.held = map[string]string{"1": "held"}
	rep, _ := Run(t.Context(), Target{Name: Sender, Endpoint: f, Rules: []Rule{LastN{Count: 1}}}, nil)
	got, err := json.Marshal(rep)
	want := `{"target":"sender","filesystems":[` +
		`{"filesystem":"a","destroyed":[],"failed":[{"snapshot":"1","error":"held"}],"kept":1,"error":"snapshot \"1\" was not destroyed: held"},` +
		`{"filesystem":"b","destroyed":[],"failed":[],"kept":1}]}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v\nwant %s", got, err, want)
	}
}

// Real endpoints: what pruning leaves on both sides is enough to go on.
func TestRunDirectories(t *testing.T) {
	source, store, root := t.TempDir(), t.TempDir(), t.TempDir()
	sender, err := dir.NewSender(dir.SenderOptions{Store: store, Directories: map[string]string{"home": source, "empty": source}, Job: "push"})
	if err != nil {
		t.Fatal(err)
	}
	receiver, err := dir.NewReceiver(dir.ReceiverOptions{Root: filepath.Join(root, "sink"), Job: "sink"})
	if err != nil {
		t.Fatal(err)
	}
	keep := []Rule{NotReplicated{}, LastN{Count: 2}}
	for i := range 5 {
		if _, err := sender.Snapshot(t.Context(), "home", fmt.Sprint("s", i), dir.SnapshotOptions{}); err != nil {
			t.Fatal(err)
		}
		// Every other time, pruning comes before replication.
		if i%2 == 0 {
			if _, err := replication.Run(t.Context(), sender, receiver, replication.Options{}); err != nil {
				t.Fatal(err)
			}
		}
		runTarget(t, Target{Name: Sender, Endpoint: sender, Cursors: sender, Rules: keep})
		runTarget(t, Target{Name: Receiver, Endpoint: receiver, Cursors: sender, Rules: []Rule{LastN{Count: 3}}})
	}
	for _, side := range []struct {
		e    endpoint.Endpoint
		want string
	}{{sender, "s3 s4"}, {receiver, "s2 s3 s4"}} {
		versions, err := listVersions(t.Context(), "side", side.e, "home")
		if err != nil {
			t.Fatal(err)
		}
		snapshots, err := asReplicated(versions)
		if got := names(snapshots); err != nil || got != side.want {
			t.Errorf("left are %q, %v; want %q", got, err, side.want)
		}
	}
}

// TestFuture: a snapshot that was taken while the clock was wrong costs no other one its
// place, and while the clock is wrong nothing is destroyed as if it were old.
func TestFuture(t *testing.T) {
	for name, rule := range map[string]Rule{
		"last": LastN{Count: 2}, "grid": Grid{Intervals: []Interval{{2, time.Hour, KeepAll}}},
	} {
		s := side(map[string]string{"fs": "@a @b @c @wrong @d @e"})
		for _, v := range s.versions["fs"] {
			if v.Name == "wrong" {
				v.Creation = time.Now().Add(50 * 365 * 24 * time.Hour).Format(time.RFC3339)
			}
		}
		rep, err := Run(t.Context(), Target{Name: Sender, Endpoint: s, Rules: []Rule{rule}}, nil)
		if got := s.left("fs"); err != nil || got != "@wrong @d @e" || rep.Filesystems[0].Kept != 3 {
			t.Errorf("%s: %q is left, %d kept, %v", name, got, rep.Filesystems[0].Kept, err)
		}
	}
}
