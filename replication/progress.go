package replication

import "time"

// Progress is how far a run has come. Bytes and steps only ever grow; what is
// expected changes as senders estimate, and when a broken step is planned anew.
type Progress struct {
	Filesystems int // that are replicated in this run; 0 while they are listed
	Done        int // filesystems that ended well
	Failed      int // filesystems that ended with an error
	Steps       int // planned and done; known once all filesystems are planned
	StepsDone   int
	Bytes       uint64 // handed to the receiver, those of failed attempts included
	Expected    uint64 // what Bytes will be in the end, as far as senders estimated
	Running     []StepProgress
}

// StepProgress is a step that runs.
type StepProgress struct {
	Filesystem string
	From, To   string // as in StepReport
	Bytes      uint64 // of this attempt
	Expected   uint64 // of this attempt; 0: unknown
	Resumed    bool
}

// progress takes a snapshot.
func (r *run) progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := Progress{Filesystems: len(r.filesystems)}
	for _, f := range r.filesystems {
		f.addTo(&p)
	}
	return p
}

// addTo adds the filesystem to a snapshot; run.mu is held.
func (f *filesystem) addTo(p *Progress) {
	moved := f.moved.Load()
	p.StepsDone += len(f.done)
	p.Steps += len(f.done) + len(f.pending)
	p.Bytes += moved
	p.Expected += moved
	switch f.state {
	case StateDone, StateEmpty:
		p.Done++
	case StateFailed:
		p.Failed++
		return // nothing more is expected of it
	}
	for _, s := range f.pending {
		var now uint64
		if s.running {
			now = moved - s.start
			p.Running = append(p.Running, StepProgress{
				Filesystem: f.path, From: versionName(s.from), To: versionName(s.to),
				Bytes: now, Expected: s.expected, Resumed: s.resumed,
			})
		}
		p.Expected += max(s.expected, now) - now
	}
}

// notify asks for a progress report after a change of state.
func (r *run) notify() {
	select {
	case r.changed <- struct{}{}:
	default: // one is due already
	}
}

// reportProgress calls Options.Progress until stop is closed, and once then.
func (r *run) reportProgress(stop <-chan struct{}) {
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	var last Progress
	for {
		moved := false
		select {
		case <-stop:
			r.opts.Progress(r.progress())
			return
		case <-r.changed:
		case <-ticker.C:
			moved = true
		}
		if now := r.progress(); !moved || now.Bytes != last.Bytes || now.Expected != last.Expected {
			last = now
			r.opts.Progress(now)
		}
	}
}

// withProgress runs work while Options.Progress is called.
func (r *run) withProgress(work func()) {
	if r.opts.Progress == nil {
		work()
		return
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		r.reportProgress(stop)
	}()
	work()
	close(stop)
	<-stopped
}
