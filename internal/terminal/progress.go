package terminal

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// barWidth is the number of columns of the bar itself, without what stands around it.
const barWidth = 40

// Progress draws one bar a name; whole ones scroll away upwards, so that hundreds of
// names fit any terminal. Its methods may be called concurrently. A
// Progress that has no terminal to draw on does nothing.
type Progress struct {
	w         io.Writer
	container *mpb.Progress // nil: no terminal

	mu   sync.Mutex
	bars map[string]*bar // nil once closed
}

// bar is a bar that was not told yet to be whole.
type bar struct {
	*mpb.Bar
	whole bool
}

// NewProgress draws on w if that is a terminal. Until it is closed, what else is to
// be seen there goes through Write.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{w: w, bars: make(map[string]*bar)}
	if IsTerminal(w) {
		p.container = mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh(),
			mpb.WithWidth(barWidth), mpb.PopCompletedMode())
	}
	return p
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// Set says that done of total bytes of name have passed. A total of 0 is not known
// yet; a total below done is raised to it.
func (p *Progress) Set(name string, done, total uint64) {
	p.update(name, func(b *bar) {
		b.SetTotal(int64(max(total, done)), false)
		b.SetCurrent(int64(done))
	})
}

// Complete says that name has all its bytes.
func (p *Progress) Complete(name string) {
	p.update(name, func(b *bar) {
		b.whole = true
		b.SetTotal(-1, true)
	})
}

// Write writes whole lines above the bars.
func (p *Progress) Write(lines []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.container == nil || p.bars == nil {
		return p.w.Write(lines)
	}
	return p.container.Write(lines)
}

// update changes the bar of name, which appears the first time. A bar that is whole
// stays as it is.
func (p *Progress) update(name string, change func(*bar)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.container == nil || p.bars == nil {
		return
	}
	b, ok := p.bars[name]
	if !ok {
		b = &bar{Bar: p.newBar(name)}
		p.bars[name] = b
	}
	if !b.whole {
		change(b)
	}
}

// newBar draws: name [=====>----] 12.3 MiB of 45.6 MiB, 7.8 MiB/s, 4s left.
func (p *Progress) newBar(name string) *mpb.Bar {
	return p.container.AddBar(0,
		mpb.BarFillerTrim(),
		mpb.PrependDecorators(decor.Name(name+" ", decor.WCSyncSpaceR)),
		mpb.AppendDecorators(
			decor.Any(amount),
			decor.AverageSpeed(decor.SizeB1024(0), ", % .1f"),
			decor.OnComplete(decor.Meta(decor.AverageETA(decor.ET_STYLE_GO), left), ""),
		),
	)
}

// amount writes how much of the total has passed.
func amount(s decor.Statistics) string {
	if s.Completed || s.Current == s.Total {
		return " " + Bytes(uint64(s.Current))
	}
	return fmt.Sprintf(" %s of %s", Bytes(uint64(s.Current)), Bytes(uint64(s.Total)))
}

// left makes a remaining time readable behind the speed.
func left(eta string) string { return ", " + eta + " left" }

// Close leaves the bars as they stand and returns when the last has been drawn.
func (p *Progress) Close() {
	p.mu.Lock()
	bars := p.bars
	p.bars = nil
	p.mu.Unlock()
	if p.container == nil || bars == nil {
		return
	}
	for _, b := range bars {
		b.Abort(false) // does nothing to a whole one
	}
	p.container.Wait()
}
