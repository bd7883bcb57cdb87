package zfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dualrepl/dualrepl/endpoint"
)

// The beginnings of the names of what a job keeps on the pool.
const (
	cursorPrefix          = "zrepl_CURSOR_G_"
	tentativeCursorPrefix = "zrepl_CURSORTENTATIVE__G_"
	stepHoldPrefix        = "zrepl_STEP_J_"
	lastReceivedPrefix    = "zrepl_last_received_J_"
	guidDigits            = 16
	jobSeparator          = "_J_"
)

func cursorName(job string, guid uint64) string { return bookmarkName(cursorPrefix, job, guid) }

func tentativeCursorName(job string, guid uint64) string {
	return bookmarkName(tentativeCursorPrefix, job, guid)
}

func bookmarkName(prefix, job string, guid uint64) string {
	return fmt.Sprintf("%s%0*x%s%s", prefix, guidDigits, guid, jobSeparator, job)
}

func stepHoldTag(job string) string { return stepHoldPrefix + job }

func lastReceivedTag(job string) string { return lastReceivedPrefix + job }

// isCursor tells whether v is the job's replication cursor, or one of them.
func isCursor(v *version, job string) bool { return isMark(v, cursorPrefix, job) }

// isTentativeCursor tells whether v is a tentative cursor of the job.
func isTentativeCursor(v *version, job string) bool { return isMark(v, tentativeCursorPrefix, job) }

func isMark(v *version, prefix, job string) bool {
	owner, guid, ok := parseBookmarkName(prefix, v.name)
	return v.bookmark && ok && owner == job && guid == v.guid
}

// parseBookmarkName is the inverse of bookmarkName.
func parseBookmarkName(prefix, name string) (job string, guid uint64, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	digits, job, found := strings.Cut(rest, jobSeparator)
	if !ok || !found || len(digits) != guidDigits || job == "" || digits != strings.ToLower(digits) {
		return "", 0, false
	}
	guid, err := strconv.ParseUint(digits, 16, 64)
	return job, guid, err == nil
}

// validateJob checks the name of a job, which becomes a part of names on the pool.
func validateJob(job string) error {
	if err := endpoint.ValidateVersionName(cursorName(job, 0)); err != nil || job == "" {
		return fmt.Errorf("%w: the job's name %q cannot be a part of names on the pool", endpoint.ErrInvalid, job)
	}
	return nil
}

// hold puts a hold on snapshots of fs. One that they have already is as good.
func (p *program) hold(ctx context.Context, tag, fs string, snapshots ...version) error {
	return p.eachSnapshot(ctx, []string{"hold", tag}, fs, snapshots, "tag already exists")
}

// release lets go of snapshots of fs. One without the hold, or that is gone, is as good.
func (p *program) release(ctx context.Context, tag, fs string, snapshots ...version) error {
	return p.eachSnapshot(ctx, []string{"release", tag}, fs, snapshots, "no such tag", "does not exist")
}

// eachSnapshot runs a command that does one snapshot after another, whatever becomes of the
// others, and says a line for each that fails. Those with one of the phrases did not.
func (p *program) eachSnapshot(ctx context.Context, args []string, fs string, snapshots []version, fine ...string) error {
	for batch := range batches(fullNames(fs, snapshots)) {
		_, err := p.run(ctx, append(slices.Clone(args), batch...)...)
		if err != nil && !saidOnly(err, fine) {
			return err
		}
	}
	return nil
}

func fullNames(fs string, versions []version) []string {
	names := make([]string, len(versions))
	for i := range versions {
		names[i] = versions[i].fullName(fs)
	}
	return names
}

// saidOnly tells whether each line that a failed zfs said has one of the phrases.
func saidOnly(err error, phrases []string) bool {
	var failed *CommandError
	if !errors.As(err, &failed) || failed.Stderr == "" || len(failed.Stderr) >= maxStderr {
		return false
	}
	for line := range strings.Lines(failed.Stderr) {
		if !slices.ContainsFunc(phrases, func(p string) bool { return strings.Contains(line, p) }) {
			return false
		}
	}
	return true
}

// bookmark makes the bookmark name of v. One that is there already is as good: the names
// that this package makes hold the GUID.
func (p *program) bookmark(ctx context.Context, fs string, v version, name string) error {
	_, err := p.run(ctx, "bookmark", v.fullName(fs), fs+"#"+name)
	if err != nil && !said(err, "bookmark exists") {
		return err
	}
	return nil
}

// destroyBookmark destroys one bookmark. One that is gone is as good.
func (p *program) destroyBookmark(ctx context.Context, fs, name string) error {
	_, err := p.run(ctx, "destroy", fs+"#"+name)
	if err != nil && !said(err, "does not exist") {
		return err
	}
	return nil
}

// holdsOf returns the tags of the holds that each of the snapshots has, by its name. One
// that is gone has none.
func (p *program) holdsOf(ctx context.Context, fs string, versions []version) (map[string][]string, error) {
	var names []string
	for _, v := range versions {
		if v.userRefs > 0 {
			names = append(names, v.fullName(fs))
		}
	}
	holds := map[string][]string{}
	for batch := range batches(names) {
		out, err := p.run(ctx, append([]string{"holds", "-H"}, batch...)...)
		if err != nil && !saidOnly(err, []string{"does not exist"}) {
			return nil, err
		}
		parseHolds(holds, out, fs)
	}
	return holds, nil
}

// parseHolds reads lines of name, tag and time.
func parseHolds(holds map[string][]string, out []byte, fs string) {
	for line := range fields(out, 3) {
		if name, ok := strings.CutPrefix(line[0], fs+"@"); ok {
			holds[name] = append(holds[name], line[1])
		}
	}
}
