package zfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/dualrepl/dualrepl/endpoint"
)

// maxToken bounds a resume token, in bytes; those of zfs have a few hundred.
const maxToken = 64 << 10

// resumeToken is what a token says.
type resumeToken struct {
	fromGUID, toGUID uint64
	toName           string // with the sender's dataset
	raw              bool
}

// readToken has zfs read a token: endpoint.ErrStaleToken if it cannot. It is read on a
// machine without the snapshots, too, where zfs fails after it has told what is in it.
func (p *program) readToken(ctx context.Context, token string) (resumeToken, error) {
	if err := checkToken(token); err != nil {
		return resumeToken{}, err
	}
	out, failure := p.run(ctx, "send", "-nvt", token)
	if failure != nil && !errors.As(failure, new(*exec.ExitError)) {
		return resumeToken{}, failure
	}
	t, err := parseToken(out)
	if err != nil {
		err = errors.Join(err, failure)
	}
	return t, err
}

func (p *program) readResumeStep(ctx context.Context, token string) (endpoint.ResumeStep, error) {
	t, err := p.readToken(ctx, token)
	return endpoint.ResumeStep{FromGUID: t.fromGUID, ToGUID: t.toGUID}, err
}

func checkToken(token string) error {
	bad := func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'z') && r != '-' }
	if token == "" || len(token) > maxToken || token[0] == '-' || strings.ContainsFunc(token, bad) {
		return fmt.Errorf("%w: it is none of zfs", endpoint.ErrStaleToken)
	}
	return nil
}

// parseToken reads lines such as "\ttoguid = 0x1f". A peer decides what is in a token, so
// that what stands there twice is not believed: zfs itself may take the other one.
func parseToken(out []byte) (t resumeToken, err error) {
	_, nvlist, _ := bytes.Cut(out, []byte("resume token contents:\n"))
	seen := map[string]bool{}
	for line := range strings.Lines(string(nvlist)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " = ")
		if !ok {
			continue
		}
		if seen[key] {
			return t, fmt.Errorf("%w: it says %q twice", endpoint.ErrStaleToken, key)
		}
		seen[key] = true
		if err := t.set(key, value); err != nil {
			return t, fmt.Errorf("%w: its %s: %w", endpoint.ErrStaleToken, key, err)
		}
	}
	if t.toGUID == 0 || t.toName == "" {
		return t, fmt.Errorf("%w: it does not say what it is for", endpoint.ErrStaleToken)
	}
	return t, nil
}

func (t *resumeToken) set(key, value string) (err error) {
	switch key {
	case "fromguid":
		t.fromGUID, err = strconv.ParseUint(value, 0, 64)
	case "toguid":
		t.toGUID, err = strconv.ParseUint(value, 0, 64)
	case "toname":
		t.toName = value
	case "rawok":
		t.raw = true
	}
	return err
}

// fits returns endpoint.ErrStaleToken unless the token is for the step, sent raw or not.
func (t resumeToken) fits(st *step, raw bool) error {
	switch {
	case t.toName != st.to.fullName(st.fs) || t.toGUID != st.to.guid:
		return fmt.Errorf("%w: it is for %s with GUID %#x", endpoint.ErrStaleToken, t.toName, t.toGUID)
	case t.fromGUID != st.fromGUID():
		return fmt.Errorf("%w: it is for a step from GUID %#x, not %#x", endpoint.ErrStaleToken, t.fromGUID, st.fromGUID())
	case t.raw != raw:
		return fmt.Errorf("%w: it is for a raw stream: %t, and the job sends one: %t", endpoint.ErrStaleToken, t.raw, raw)
	}
	return nil
}

// estimate asks zfs how long the stream of a send command is going to be.
func (p *program) estimate(ctx context.Context, sendArgs []string) (uint64, error) {
	out, err := p.run(ctx, append([]string{"send", "-nvP"}, sendArgs[1:]...)...)
	if err != nil {
		p.log.Debug("size is unknown", "err", err)
		return 0, err
	}
	return parseEstimate(out), nil
}

// parseEstimate finds the line "size\t<bytes>"; without it the size is 0, unknown.
func parseEstimate(out []byte) uint64 {
	for line := range fields(out, 2) {
		if line[0] == "size" {
			size, _ := strconv.ParseUint(line[1], 10, 64) // 0 if it is none
			return size
		}
	}
	return 0
}
