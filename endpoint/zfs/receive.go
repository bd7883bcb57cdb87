package zfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/internal/pipe"
	"github.com/dualrepl/dualrepl/pdu"
)

// Receive makes missing ancestors as placeholders and has zfs receive the stream. A step
// that breaks leaves a resume token. One that does not fit what is there changes nothing.
func (r *Receiver) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	name, err := r.checkReceive(ctx, req)
	if err != nil {
		return nil, err
	}
	stream, err = endpoint.ExpectStream(stream, endpoint.StreamZFS)
	if err == nil {
		err = r.receiveLocked(ctx, name, req, stream)
	}
	if err != nil {
		return nil, fmt.Errorf("receive %s@%s: %w", req.GetFilesystem(), req.GetTo().GetName(), err)
	}
	return &pdu.ReceiveRes{}, nil
}

// checkReceive refuses what could never be received, and returns the dataset to receive into.
func (r *Receiver) checkReceive(ctx context.Context, req *pdu.ReceiveReq) (name string, err error) {
	if name, err = r.target(ctx, req.GetFilesystem()); err != nil {
		return "", err
	}
	to := req.GetTo()
	if err := endpoint.CheckReceived(to); err != nil {
		return "", err
	}
	if err := endpoint.ValidateVersionName(to.GetName()); err != nil {
		return "", err
	}
	if full := name + "@" + to.GetName(); len(full) > endpoint.MaxNameLength {
		return "", fmt.Errorf("%w: %q would have %d bytes, and zfs takes at most %d", endpoint.ErrInvalid, full, len(full), endpoint.MaxNameLength)
	}
	for _, initial := range []bool{true, false} {
		kind := endpoint.GuaranteeOf(req.GetReplicationConfig(), initial)
		if kind < pdu.ReplicationGuaranteeKind_GuaranteeResumability || kind > pdu.ReplicationGuaranteeKind_GuaranteeNothing {
			return "", fmt.Errorf("%w: the request says no replication guarantee that is known", endpoint.ErrInvalid)
		}
	}
	return name, nil
}

// receiveLocked looks at the stream and the dataset before it changes anything, and then
// only makes way for this stream.
func (r *Receiver) receiveLocked(ctx context.Context, name string, req *pdu.ReceiveReq, stream io.Reader) error {
	unlock, err := r.lockTarget(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	head, err := readHead(stream)
	if err != nil {
		return err
	}
	defer r.lister.changed(name)
	target, err := r.inspect(ctx, name)
	if err != nil {
		return err
	}
	// As zrepl has it, a placeholder is not nothing: what comes onto it is incremental.
	kind := endpoint.GuaranteeOf(req.GetReplicationConfig(), target == nil)
	if err := cmp.Or(head.check(req.GetTo()), head.checkTarget(target, req.GetClearResumeToken())); err != nil {
		return err
	}
	if target, err = r.makeWay(ctx, name, target, head, req.GetClearResumeToken()); err != nil {
		return err
	}
	args := append(r.receiveArgs(target, head), name+"@"+req.GetTo().GetName())
	if err := r.program.receive(ctx, args, head.bytes, stream); err != nil {
		return receiveError(err, head)
	}
	return r.holdReceived(ctx, name, req.GetTo(), kind)
}

// inspect returns nil for a dataset that does not exist.
func (r *Receiver) inspect(ctx context.Context, name string) (*dataset, error) {
	found, err := r.program.datasets(ctx, false, name)
	if errors.Is(err, endpoint.ErrNotFound) {
		return nil, nil
	}
	if err != nil || len(found) != 1 {
		return nil, cmp.Or(err, fmt.Errorf("%w: %s is no filesystem or volume", endpoint.ErrFailedPrecondition, name))
	}
	return &found[0], nil
}

// checkTarget tells why a stream does not fit the dataset, as far as that can be told
// before zfs compares snapshots. clear says that a partial state is going to be dropped.
func (h *streamHead) checkTarget(target *dataset, clear bool) error {
	partial := target != nil && target.token != "" && !clear
	switch {
	case h.resumed && !partial:
		return fmt.Errorf("%w: there is no beginning of a broken step", endpoint.ErrStaleToken)
	case !h.resumed && partial:
		return fmt.Errorf("%w: there is the beginning of a broken step", endpoint.ErrFailedPrecondition)
	case h.fromGUID != 0 && (target == nil || target.placeholder):
		return fmt.Errorf("%w: there is no version with GUID %#x that the step starts from", endpoint.ErrFailedPrecondition, h.fromGUID)
	}
	return nil
}

// makeWay drops a partial state, makes missing ancestors, and prepares a placeholder to be
// received onto. It returns what is then there.
func (r *Receiver) makeWay(ctx context.Context, name string, target *dataset, head *streamHead, clear bool) (*dataset, error) {
	var err error
	if target != nil && target.token != "" && clear {
		if target, err = r.dropPartial(ctx, target); err != nil {
			return nil, err
		}
	}
	switch {
	case target == nil:
		return nil, r.makeAncestors(ctx, name)
	case head.fromGUID != 0:
		return target, nil
	case head.resumed:
		return target, r.prepareResumed(ctx, target, head)
	case target.placeholder:
		return r.emptyPlaceholder(ctx, target, head)
	}
	return nil, fmt.Errorf("%w: %s exists and is no placeholder; a full step would replace it", endpoint.ErrFailedPrecondition, name)
}

// receiveArgs are zfs's arguments but for the snapshot.
//
// -s keeps what came of a stream that breaks. -u mounts nothing: what is received may have
// any mountpoint, and an unprivileged user cannot mount. -F lets a full stream replace a
// placeholder, and a resumed one what its beginning was to replace; nothing else is ever
// rolled back or replaced. A placeholder ceases to be one in the same breath: zfs puts
// the property back if the receive fails.
func (r *Receiver) receiveArgs(target *dataset, head *streamHead) []string {
	args := []string{"receive", "-s", "-u"}
	if target != nil && head.fromGUID == 0 {
		args = append(args, "-F")
		if target.placeholder {
			args = append(args, "-o", placeholderProperty+"="+placeholderOff)
		}
	}
	for _, property := range r.opts.Inherit {
		args = append(args, "-x", property)
	}
	for _, property := range slices.Sorted(maps.Keys(r.opts.Override)) {
		if !head.volume || !slices.Contains(filesystemOnly, property) {
			args = append(args, "-o", property+"="+r.opts.Override[property])
		}
	}
	if !head.volume && head.properties && !r.decides("canmount") {
		// The sender's mountpoint is one of its own machine, perhaps /etc: the next boot of
		// this one must not mount the backup there.
		args = append(args, "-o", "canmount=noauto")
	}
	return args
}

// decides tells whether the options say something about a property.
func (r *Receiver) decides(property string) bool {
	_, ok := r.opts.Override[property]
	return ok || slices.Contains(r.opts.Inherit, property)
}

// filesystemOnly are the properties that zfs refuses to set for a volume.
var filesystemOnly = []string{
	"aclinherit", "aclmode", "acltype", "atime", "canmount", "casesensitivity", "devices", "exec",
	"filesystem_limit", "mountpoint", "nbmand", "normalization", "overlay", "quota", "recordsize",
	"refquota", "relatime", "setuid", "sharenfs", "sharesmb", "snapdir", "special_small_blocks",
	"utf8only", "version", "vscan", "xattr", "zoned",
}

// receiveError says what zfs means but does not say.
func receiveError(err error, head *streamHead) error {
	if head.resumed && said(err, "kernel modules must be upgraded") {
		// Its way to say that a resumed stream does not continue what is there.
		return fmt.Errorf("%w: %w", endpoint.ErrStaleToken, err)
	}
	if said(err, "dataset is busy") || said(err, "contains partially-complete state") {
		// Somebody else is receiving into it, perhaps the zfs of a daemon that was killed.
		return fmt.Errorf("%w: %w", endpoint.ErrBusy, err)
	}
	return err
}

// receive feeds a process head and the rest of the stream. If the stream breaks, zfs gets
// the end of its input, and keeps what came.
func (p *program) receive(ctx context.Context, args []string, head []byte, stream io.Reader) error {
	output, input, err := os.Pipe()
	if err != nil {
		return err
	}
	defer input.Close()
	pipe.Enlarge(input)
	cmd := p.command(ctx, args...)
	cmd.Stdin = output
	pr, err := p.start(ctx, cmd)
	output.Close()
	if err != nil {
		return err
	}
	// A zfs that the kernel does not let die would keep a Write waiting.
	defer context.AfterFunc(ctx, func() { input.Close() })()
	w := &pipeWriter{pipe: input}
	if _, err = w.Write(head); err == nil {
		_, err = io.Copy(w, stream)
	}
	input.Close()
	failure := pr.wait()
	switch {
	case err != nil && w.err == nil:
		return fmt.Errorf("read the stream: %w", err)
	case failure == nil && err != nil:
		return fmt.Errorf("%w: the stream goes on after its end", endpoint.ErrInvalid)
	}
	return failure
}

// pipeWriter remembers that it failed, so that this is told from the stream's failing.
type pipeWriter struct {
	pipe *os.File
	err  error
}

// Write implements io.Writer.
func (w *pipeWriter) Write(p []byte) (n int, err error) {
	n, w.err = w.pipe.Write(p)
	return n, w.err
}

// holdReceived checks that the version is there, holds it, and lets go of those before it:
// there is no moment without a hold on one that the next step may start from.
func (r *Receiver) holdReceived(ctx context.Context, name string, to *pdu.FilesystemVersion, kind pdu.ReplicationGuaranteeKind) error {
	versions, err := r.program.versions(ctx, name)
	if err != nil {
		return fmt.Errorf("check what was received: %w", err)
	}
	received, err := findVersion(versions, to)
	if err != nil {
		return fmt.Errorf("check what was received: %w", err)
	}
	tag := lastReceivedTag(r.opts.Job)
	old := slices.DeleteFunc(versions, func(v version) bool { return v == received })
	if kind == pdu.ReplicationGuaranteeKind_GuaranteeNothing {
		old = append(old, received)
	} else if err := r.program.hold(ctx, tag, name, received); err != nil {
		return err
	}
	holds, err := r.program.holdsOf(ctx, name, old)
	if err != nil {
		return err
	}
	old = slices.DeleteFunc(old, func(v version) bool { return v.bookmark || !slices.Contains(holds[v.name], tag) })
	return r.program.release(ctx, tag, name, old...)
}
