package config

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// checkTogether checks what jobs must have apart and what they must have in common.
func (d *decoder) checkTogether(cfg *Config) {
	names := map[string]string{}
	for i, job := range cfg.Jobs {
		d.unique(names, fmt.Sprintf("jobs[%d]", i), "name", job.Name, "give each job a name of its own")
	}
	d.checkListeners(cfg)
	d.checkKept(cfg.Jobs)
	d.checkDatasets(cfg.Jobs)
}

// jobAt is a section for looking at fields of jobs[i].
func (d *decoder) jobAt(i int) section {
	return section{decoder: d, field: fmt.Sprintf("jobs[%d]", i)}
}

// unique notes the value of a key of the owner (jobs[1], for one) in seen, which tells the
// owner by the value, and reports a second one.
func (d *decoder) unique(seen map[string]string, owner, key, value, hint string) {
	s := section{decoder: d, field: owner}
	if !s.sound(key) {
		return
	}
	if first, again := seen[value]; again {
		s.fail(key, fmt.Sprintf("%s is taken by %s", quote(value), first), hint)
		return
	}
	seen[value] = owner
}

// A keep is the directory that a job keeps versions in.
type keep struct {
	job  int
	kind string // store or root: the key of the job's endpoint
	path string
}

// checkKept checks that no job keeps its versions where another one does, or takes
// snapshots of what another one keeps. Sending jobs may share a store.
func (d *decoder) checkKept(jobs []Job) {
	var keeps []keep
	for i, job := range jobs {
		for _, k := range d.keepsOf(i, job) {
			hint := "give each job a " + k.kind + " of its own, outside of all others"
			d.apart(i, "endpoint."+k.kind, k.path, slices.DeleteFunc(slices.Clone(keeps), k.sameStore), hint)
			d.checkShared(jobs, k, keeps)
			keeps = append(keeps, k)
		}
	}
	for i, job := range jobs {
		for name, path := range job.Endpoint.Directories {
			key := element("endpoint.directories", name)
			d.apart(i, key, path, keeps, "snapshots would contain versions: name directories apart from it, or move it")
		}
	}
}

// sameStore reports whether both keep their versions in the same store, so that one
// job's snapshots are replicated by another, or by several.
func (k keep) sameStore(other keep) bool {
	return k.kind == "store" && other.kind == "store" && filepath.Clean(k.path) == filepath.Clean(other.path)
}

// checkShared checks that of the jobs that share a store with k's one takes
// snapshots by itself, and that they mean the same directory by the same name.
func (d *decoder) checkShared(jobs []Job, k keep, keeps []keep) {
	s, mine := d.jobAt(k.job), jobs[k.job]
	for _, other := range slices.DeleteFunc(slices.Clone(keeps), func(o keep) bool { return !k.sameStore(o) }) {
		theirs := jobs[other.job]
		if s.sound("endpoint.store") && mine.takesSnapshots() && theirs.takesSnapshots() {
			s.fail("endpoint.store", fmt.Sprintf("%s is a store that jobs[%d] takes snapshots in", quote(k.path), other.job),
				"set snapshotting: {type: manual} on all jobs of a store but one")
		}
		for name, path := range mine.Endpoint.Directories {
			key := element("endpoint.directories", name)
			there, both := theirs.Endpoint.Directories[name]
			if both && s.sound(key) && filepath.Clean(there) != filepath.Clean(path) {
				s.fail(key, fmt.Sprintf("is %s in jobs[%d], which has the same store", quote(there), other.job),
					"give the directory another name, or the job another store")
			}
		}
	}
}

// takesSnapshots reports whether the job takes snapshots without being asked.
func (j Job) takesSnapshots() bool {
	return j.Snapshotting != nil && j.Snapshotting.Type != "" && j.Snapshotting.Type != SnapshottingManual
}

// keepsOf lists where jobs[i] keeps versions: one place, if the job is correct.
func (d *decoder) keepsOf(i int, job Job) []keep {
	var keeps []keep
	s := d.jobAt(i)
	if s.sound("endpoint.store") {
		keeps = append(keeps, keep{i, "store", job.Endpoint.Store})
	}
	if job.receives() && s.sound("endpoint.root") && s.sound("root_fs") == s.given("root_fs") {
		keeps = append(keeps, keep{i, "root", job.ReceiveRoot()})
	}
	return keeps
}

// apart checks that a path of jobs[i] has nothing to do with what other jobs keep.
func (d *decoder) apart(i int, key, path string, keeps []keep, hint string) {
	s := d.jobAt(i)
	if !s.sound(key) {
		return
	}
	for _, k := range keeps {
		if how := k.relation(path); how != "" && k.job != i {
			s.fail(key, quote(path)+" "+how, hint)
			return
		}
	}
}

// relation says what a path is to what is kept, going by their names, or nothing if
// they are apart.
func (k keep) relation(path string) string {
	name := fmt.Sprintf("the %s of jobs[%d]", k.kind, k.job)
	return relate(inside(path, k.path), inside(k.path, path), name, k.path)
}

// relate puts in words what lies in the other one, of something and of what has the name.
func relate(within, around bool, name, value string) string {
	switch {
	case within && around:
		return "is " + name
	case within:
		return "lies in " + name + ", " + quote(value)
	case around:
		return "contains " + name + ", " + quote(value)
	}
	return ""
}

// checkDatasets checks that no two jobs receive into the same datasets.
func (d *decoder) checkDatasets(jobs []Job) {
	receives := func(i int) bool {
		return jobs[i].receives() && jobs[i].Endpoint.Type == EndpointZFS && d.jobAt(i).sound("root_fs")
	}
	for i := range jobs {
		for j := range i {
			if !receives(i) || !receives(j) {
				continue
			}
			a, b, name := jobs[i].RootFS, jobs[j].RootFS, fmt.Sprintf("the root_fs of jobs[%d]", j)
			if how := relate(within(a, b), within(b, a), name, b); how != "" {
				d.jobAt(i).fail("root_fs", quote(a)+" "+how, "give each job a root_fs of its own, outside of all others")
				break
			}
		}
	}
}

// checkLoop checks that jobs[i] and the one that it meets within the daemon do not send what
// they receive: it would arrive below itself, deeper with each replication.
func (d *decoder) checkLoop(i int, job, met Job) {
	sender, receiver, key := job, met, "filesystems"
	if !sender.Sends() {
		sender, receiver, key = met, job, "root_fs"
	}
	base, ok := receivedAt(sender, receiver)
	if !ok || !d.jobAt(i).sound(key) {
		return
	}
	if receiver.Type == TypeSink {
		base = path.Join(base, job.Connect.ClientIdentity)
	}
	for _, rule := range sender.Filesystems {
		sent := strings.TrimSuffix(rule.Pattern, "<")
		if name := path.Join(base, sent); rule.Include && sender.Filesystems.Match(name) {
			d.jobAt(i).fail(key, fmt.Sprintf("%s, which %s is received as, would be sent, too, and so on", quote(name), quote(rule.Pattern)),
				"add "+quote(base+"<")+": false to filesystems of the job that sends")
			return
		}
	}
}

// receivedAt is the filesystem of the sender's that the receiver receives below, if its data
// lies there.
func receivedAt(sender, receiver Job) (name string, ok bool) {
	from, to := sender.Endpoint, receiver.Endpoint
	switch {
	case from.Type == EndpointZFS && to.Type == EndpointZFS:
		return receiver.RootFS, receiver.RootFS != ""
	case from.Type == EndpointBtrfs && to.Type == EndpointBtrfs && from.Root != "" && to.Root != "":
		rel, err := filepath.Rel(from.Root, receiver.ReceiveRoot())
		return rel, err == nil && filepath.IsLocal(rel)
	}
	return "", false
}
