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

// Progress draws one bar a name; ended ones scroll away upwards, so that hundreds of
// names fit any terminal. Its methods may be called concurrently. Without a terminal
// to draw on it draws nothing.
type Progress struct {
	w         io.Writer
	container *mpb.Progress // nil: no terminal

	mu   sync.Mutex
	bars map[string]*mpb.Bar // nil once closed
}

// NewProgress draws on w if that is a terminal. Until it is closed, what else is to
// be seen there goes through Write.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{w: w, bars: make(map[string]*mpb.Bar)}
	if isTerminal(w) {
		p.container = mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh(),
			mpb.WithWidth(barWidth), mpb.PopCompletedMode())
	}
	return p
}

// Draws reports whether there is a terminal: without one, what only the bars tell need not
// be found out.
func (p *Progress) Draws() bool { return p.container != nil }

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// Set says that done of total bytes of name have passed. A total of 0 is not known: a bar
// that begins so shows the bytes only. A total below done is raised to it.
func (p *Progress) Set(name string, done, total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.container == nil || p.bars == nil {
		return
	}
	b, ok := p.bars[name]
	if !ok {
		b = p.newBar(Printable(name)+" ", total > 0)
		p.bars[name] = b
	}
	b.SetTotal(int64(max(total, done)), false)
	b.SetCurrent(int64(done))
}

// End leaves the bar of name as it stands. A later Set draws a new one.
func (p *Progress) End(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b, ok := p.bars[name]; ok {
		b.SetTotal(-1, true)
		delete(p.bars, name)
	}
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

// newBar draws: name [=====>----] 12.3 MiB of 45.6 MiB, 7.8 MiB/s, 4s left. Without a
// total it draws: name 12.3 MiB, 7.8 MiB/s.
func (p *Progress) newBar(name string, measured bool) *mpb.Bar {
	title := mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR))
	if !measured {
		return p.container.New(0, mpb.NopStyle(), title,
			mpb.AppendDecorators(decor.Any(soFar), decor.AverageSpeed(decor.SizeB1024(0), ", % .1f")))
	}
	return p.container.AddBar(0,
		mpb.BarFillerTrim(),
		title,
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

// soFar writes how much has passed.
func soFar(s decor.Statistics) string { return Bytes(uint64(s.Current)) }

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
		b.Abort(false)
	}
	p.container.Wait()
}
