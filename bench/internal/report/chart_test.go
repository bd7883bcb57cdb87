package report

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestChart(t *testing.T) {
	c := example()
	panels := [][]Panel{
		{PanelOf(c, "speed", c.Figures[0]), PanelOf(c, "both", c.Figures...)},
		{PanelOf(c, "speed again", c.Figures[0])},
	}
	var out strings.Builder
	if err := WriteChart(&out, "title & machine", panels); err != nil {
		t.Fatal(err)
	}
	elements, text := parseXML(t, out.String())
	for _, want := range []string{"title & machine", "speed", "both", "c <tls>", "GiB/s", "3.00"} {
		if !strings.Contains(text, want) {
			t.Errorf("the chart has no text %q", want)
		}
	}
	// A background, a bar for each layer of each of three names, and two colours in a legend.
	if got, want := elements["rect"], 1+3+6+3+2; got != want {
		t.Errorf("%d rectangles, want %d", got, want)
	}
	if got, want := elements["path"], 6; got != want {
		t.Errorf("%d ranges, want %d", got, want)
	}
}

// parseXML counts elements and joins texts.
func parseXML(t *testing.T, document string) (elements map[string]int, text string) {
	t.Helper()
	elements = map[string]int{}
	for d := xml.NewDecoder(strings.NewReader(document)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return elements, text
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			elements[token.Name.Local]++
		case xml.CharData:
			text += string(token)
		}
	}
}

func TestLayoutStaysInside(t *testing.T) {
	c := example()
	placed := PanelOf(c, "both", c.Figures...).layout(panelWidth, 10)
	for _, bar := range placed.Bars {
		if bar.X < float64(placed.Left) || bar.X+bar.Width > 2*panelWidth-valueWidth+0.2 {
			t.Errorf("a bar from %v, %v wide, leaves its panel", bar.X, bar.Width)
		}
	}
	// The layers of a bar touch.
	if first, second := placed.Bars[2], placed.Bars[3]; first.X+first.Width != second.X {
		t.Errorf("a bar ends at %v, the next begins at %v", first.X+first.Width, second.X)
	}
}

func TestTicks(t *testing.T) {
	for _, test := range []struct {
		most float64
		want []float64
	}{
		{4.6, []float64{0, 1, 2, 3, 4}},
		{1.3, []float64{0, 0.2, 0.4, 0.6, 0.8, 1, 1.2}},
		{0.33, []float64{0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3}},
		{900, []float64{0, 100, 200, 300, 400, 500, 600, 700, 800, 900}},
	} {
		if got := ticks(test.most); !slices.Equal(got, test.want) {
			t.Errorf("ticks(%v) = %v, want %v", test.most, got, test.want)
		}
	}
}
