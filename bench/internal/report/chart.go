package report

import (
	_ "embed"
	"io"
	"math"
	"slices"
	"strconv"
	"text/template"
)

// A Panel is a chart of horizontal bars, one for each name from the top down.
type Panel struct {
	Title  string
	Names  []string
	Layers []Layer // parts of each bar, one after the other
}

// A Layer is a part of each bar of a Panel.
type Layer struct {
	Name    string // for the legend, if there are several
	Spreads []Spread
}

// PanelOf makes a panel of figures of a comparison; those of several layers add up.
func PanelOf[T any](c Comparison[T], title string, figures ...Figure[T]) Panel {
	p := Panel{Title: title}
	for _, s := range c.Series {
		p.Names = append(p.Names, s.Name)
	}
	for _, f := range figures {
		layer := Layer{Name: f.Name}
		for _, s := range c.Series {
			layer.Spreads = append(layer.Spreads, SpreadOf(s.values(f.Of)))
		}
		p.Layers = append(p.Layers, layer)
	}
	return p
}

// Sizes in a chart, in pixels.
const (
	panelWidth = 470
	nameWidth  = 120 // left of the bars
	valueWidth = 45  // right of the longest bar
	headHeight = 46  // above the bars of a panel
	footHeight = 34  // below them
	barPitch   = 19
	barHeight  = 12
	titleHigh  = 36 // above all panels
)

var layerColors = []string{"#2f6db3", "#f0a03c"}

//go:embed chart.svg.tmpl
var chartText string

// The template writes what layout has placed.
var chartTemplate = template.Must(template.New("chart").Parse(chartText))

// WriteChart writes the panels, in rows, as an SVG picture.
func WriteChart(w io.Writer, title string, panels [][]Panel) error {
	c := canvas{Title: title, Height: titleHigh}
	for _, row := range panels {
		height := 0
		for i, p := range row {
			placed := p.layout(i*panelWidth, c.Height)
			c.Panels = append(c.Panels, placed)
			height = max(height, placed.Bottom-placed.Top+headHeight+footHeight)
		}
		c.Width = max(c.Width, len(row)*panelWidth)
		c.Height += height
	}
	return chartTemplate.Execute(w, c)
}

// canvas is the picture.
type canvas struct {
	Title         string
	Width, Height int
	Panels        []placedPanel
}

// placedPanel is a Panel in the picture.
type placedPanel struct {
	Title       string
	X, Y        int // of its corner
	Left        int // where bars begin
	Top, Bottom int // of all bars
	Ticks       []placedText
	Names       []placedText
	Values      []placedText
	Bars        []placedBar
	Ranges      []placedBar
	Legend      []placedBar
}

type placedText struct {
	X    float64
	Y    int
	Text string
}

type placedBar struct {
	X, Width  float64
	Y, Height int
	Color     string
	Text      string
}

// scale leads from a figure to pixels right of where bars begin.
type scale float64

func (s scale) of(figure float64) float64 { return math.Round(float64(s)*figure*10) / 10 }

func (p Panel) layout(x, y int) placedPanel {
	placed := placedPanel{
		Title: p.Title, X: x, Y: y, Left: x + nameWidth, Top: y + headHeight, Bottom: y + headHeight + barPitch*len(p.Names),
	}
	most := p.most()
	s := scale((panelWidth - nameWidth - valueWidth) / most)
	for _, tick := range ticks(most) {
		at := placedText{float64(placed.Left) + s.of(tick), placed.Bottom + 14, strconv.FormatFloat(tick, 'g', -1, 64)}
		placed.Ticks = append(placed.Ticks, at)
	}
	for i := range p.Names {
		placed.placeBar(p, i, s)
	}
	if len(p.Layers) > 1 {
		for i, layer := range p.Layers {
			placed.Legend = append(placed.Legend, placedBar{
				X: float64(placed.Left + 80*i), Y: y + headHeight - 18, Width: 10, Height: 10, Color: layerColors[i], Text: layer.Name,
			})
		}
	}
	return placed
}

// placeBar places all that there is of the name i.
func (placed *placedPanel) placeBar(p Panel, i int, s scale) {
	y := placed.Top + barPitch*i + (barPitch-barHeight)/2
	placed.Names = append(placed.Names, placedText{float64(placed.Left - 6), y + barHeight - 2, p.Names[i]})
	total, end := 0.0, 0.0
	for j, layer := range p.Layers {
		placed.Bars = append(placed.Bars, placedBar{
			X: float64(placed.Left) + s.of(total), Y: y, Width: s.of(layer.Spreads[i].Median), Height: barHeight, Color: layerColors[j],
		})
		total += layer.Spreads[i].Median
		end = total
	}
	if len(p.Layers) == 1 {
		r := p.Layers[0].Spreads[i]
		placed.Ranges = append(placed.Ranges, placedBar{X: float64(placed.Left) + s.of(r.Min), Y: y + barHeight/2, Width: s.of(r.Max - r.Min)})
		end = r.Max
	}
	placed.Values = append(placed.Values, placedText{float64(placed.Left) + s.of(end) + 5, y + barHeight - 2, decimal(total, 2)})
}

// most is the end of the longest bar or range.
func (p Panel) most() float64 {
	ends := make([]float64, len(p.Names))
	for i := range ends {
		for _, layer := range p.Layers {
			if len(p.Layers) == 1 {
				ends[i] = layer.Spreads[i].Max
			} else {
				ends[i] += layer.Spreads[i].Median
			}
		}
	}
	return slices.Max(ends)
}

// ticks are a few round figures from 0 up to most.
func ticks(most float64) []float64 {
	unit := math.Pow(10, math.Floor(math.Log10(most)))
	step := unit
	for _, part := range []float64{0.1, 0.2, 0.5} {
		if most/(unit*part) <= 7 {
			step = unit * part
			break
		}
	}
	var all []float64
	for i := 0.0; i*step <= most; i++ {
		all = append(all, math.Round(i*step*1e6)/1e6)
	}
	return all
}
