package zfs

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// version is a snapshot or bookmark of a dataset.
type version struct {
	name            string // without the dataset's
	bookmark        bool
	guid, createTXG uint64
	creation        time.Time
	userRefs        uint64 // holds; 0 for bookmarks
}

func (v *version) pdu() *pdu.FilesystemVersion {
	kind := pdu.FilesystemVersion_Snapshot
	if v.bookmark {
		kind = pdu.FilesystemVersion_Bookmark
	}
	return &pdu.FilesystemVersion{
		Type: kind, Name: v.name, Guid: v.guid, CreateTXG: v.createTXG,
		Creation: v.creation.UTC().Format(time.RFC3339),
	}
}

// fullName is how zfs names the version of fs.
func (v *version) fullName(fs string) string {
	if v.bookmark {
		return fs + "#" + v.name
	}
	return fs + "@" + v.name
}

func pduVersions(versions []version) []*pdu.FilesystemVersion {
	list := make([]*pdu.FilesystemVersion, len(versions))
	for i := range versions {
		list[i] = versions[i].pdu()
	}
	return list
}

// versions lists one dataset's versions, the oldest first.
func (p *program) versions(ctx context.Context, fs string) ([]version, error) {
	return one(ctx, p.versionsOf, fs)
}

func one(ctx context.Context, list listFunc, fs string) ([]version, error) {
	all, err := list(ctx, fs)
	if err != nil {
		return nil, err
	}
	return all[fs], nil
}

// versionsOf lists the versions of several datasets with one process. If some do not
// exist, those of the others come with the error.
func (p *program) versionsOf(ctx context.Context, filesystems ...string) (map[string][]version, error) {
	args := []string{"list", "-H", "-p", "-t", "snapshot,bookmark", "-d", "1", "-o", "name,guid,createtxg,creation,userrefs"}
	out, err := p.run(ctx, append(args, filesystems...)...)
	if err != nil && !saidOnly(err, []string{"dataset does not exist"}) {
		return nil, err
	}
	return parseVersions(out, p.log), err
}

// parseVersions reads lines of name, guid, createtxg, creation and userrefs. What is none,
// or has a name that cannot be replicated, is left out.
func parseVersions(out []byte, log *slog.Logger) map[string][]version {
	all := map[string][]version{}
	for line := range fields(out, 5) {
		fs, v, err := parseVersion(line)
		if err != nil {
			log.Debug("version is left out", "name", line[0], "err", err)
			continue
		}
		all[fs] = append(all[fs], v)
	}
	for _, versions := range all {
		slices.SortFunc(versions, compareVersions)
	}
	return all
}

// compareVersions orders by age. Bookmarks have the CreateTXG of what they were made of.
func compareVersions(a, b version) int {
	return cmp.Or(cmp.Compare(a.createTXG, b.createTXG), strings.Compare(a.fullName(""), b.fullName("")))
}

func parseVersion(line []string) (fs string, v version, err error) {
	i := strings.IndexAny(line[0], "@#")
	if i < 0 {
		return "", v, endpoint.ErrInvalid
	}
	fs, v.name, v.bookmark = line[0][:i], line[0][i+1:], line[0][i] == '#'
	if err := cmp.Or(checkDataset(fs), endpoint.ValidateVersionName(v.name)); err != nil {
		return "", v, err
	}
	creation, err := parseNumbers(line[1:], &v.guid, &v.createTXG, &v.userRefs)
	v.creation = creation
	return fs, v, err
}

// parseNumbers reads guid, createtxg, creation and userrefs, which bookmarks do not have.
func parseNumbers(text []string, guid, createTXG, userRefs *uint64) (creation time.Time, err error) {
	var errs [4]error
	var seconds int64
	*guid, errs[0] = strconv.ParseUint(text[0], 10, 64)
	*createTXG, errs[1] = strconv.ParseUint(text[1], 10, 64)
	seconds, errs[2] = strconv.ParseInt(text[2], 10, 64)
	if text[3] != "-" {
		*userRefs, errs[3] = strconv.ParseUint(text[3], 10, 64)
	}
	if *guid == 0 || *createTXG == 0 {
		return creation, cmp.Or(errs[0], errs[1], endpoint.ErrInvalid)
	}
	return time.Unix(seconds, 0), cmp.Or(errs[0], errs[1], errs[2], errs[3])
}

const (
	// versionBatch is how many datasets one process lists the versions of.
	versionBatch = 256
	// versionsKept is how long what a batch told of the others is good for.
	versionsKept = 10 * time.Second
	// maxVersionsKept is about how many datasets' versions are kept. A client has usually
	// less than a batch, but nobody has to ask in the order of the list.
	maxVersionsKept = 8 * versionBatch
)

// versionLister lists versions of many datasets with few processes: it knows the order in
// which they are going to be asked for, and lists those that come next as well. What it
// keeps is served once.
type versionLister struct {
	list listFunc

	mu   sync.Mutex
	next map[string][]string // of each listed dataset that was not asked for: itself and those after it
	kept map[string]*versionsBatch
}

// listFunc is program.versionsOf.
type listFunc func(ctx context.Context, datasets ...string) (map[string][]version, error)

// versionsBatch is one process's answer.
type versionsBatch struct {
	done chan struct{} // closed when the rest is set
	all  map[string][]version
	err  error
	at   time.Time
}

func newVersionLister(p *program) *versionLister {
	return &versionLister{list: p.versionsOf}
}

// listed notes the datasets whose versions are going to be asked for, in order. They are all
// that one client sees: those below root, or all that there are if it is "".
func (l *versionLister) listed(root string, datasets []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == nil {
		l.kept, l.next = map[string]*versionsBatch{}, map[string][]string{}
	}
	forgetBelow(l.kept, root)
	forgetBelow(l.next, root)
	for i, fs := range datasets {
		l.next[fs] = datasets[i:]
	}
}

func forgetBelow[V any](m map[string]V, root string) {
	maps.DeleteFunc(m, func(name string, _ V) bool { return root == "" || strings.HasPrefix(name, root+"/") })
}

// changed forgets what is kept of a dataset.
func (l *versionLister) changed(fs string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.kept, fs)
}

// versions lists one dataset's versions, the oldest first.
func (l *versionLister) versions(ctx context.Context, fs string) ([]version, error) {
	batch, names := l.take(fs)
	if names != nil {
		batch.all, batch.err = l.list(ctx, names...)
		batch.at = time.Now()
		close(batch.done)
	}
	if batch != nil {
		select {
		case <-batch.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if versions, found := batch.all[fs]; (found || batch.err == nil) && !batch.stale() {
			return versions, nil
		}
	}
	return one(ctx, l.list, fs)
}

// take returns the batch that has fs, which is not kept any more. Names that it returns
// are those that the caller has to list for it.
func (l *versionLister) take(fs string) (batch *versionsBatch, names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if batch = l.kept[fs]; batch != nil && !batch.stale() {
		delete(l.kept, fs)
		delete(l.next, fs)
		return batch, nil
	}
	for _, name := range l.next[fs] {
		if len(names) == versionBatch {
			break
		}
		if l.next[name] != nil && (l.kept[name] == nil || l.kept[name].stale()) {
			names = append(names, name)
		}
	}
	if len(names) == 0 || l.full() {
		return nil, nil
	}
	batch = &versionsBatch{done: make(chan struct{})}
	for _, name := range names[1:] {
		l.kept[name] = batch
	}
	delete(l.kept, fs)
	delete(l.next, fs)
	return batch, names
}

// full tells whether as much is kept as may be, without what is stale.
func (l *versionLister) full() bool {
	if len(l.kept) > maxVersionsKept {
		maps.DeleteFunc(l.kept, func(_ string, b *versionsBatch) bool { return b.stale() })
	}
	return len(l.kept) > maxVersionsKept
}

// stale is for a batch that may be still under way.
func (b *versionsBatch) stale() bool {
	select {
	case <-b.done:
		return time.Since(b.at) >= versionsKept
	default:
		return false
	}
}
