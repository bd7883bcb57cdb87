package report

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// WriteTable writes the medians as a table with aligned columns.
func (c Comparison[T]) WriteTable(w io.Writer) error {
	ratios := slices.DeleteFunc(slices.Clone(c.Ratios), func(r Ratio[T]) bool {
		_, found := c.find(r.To)
		return !found
	})
	rows := [][]string{c.header(ratios)}
	for _, s := range c.Series {
		rows = append(rows, c.row(s, ratios))
	}
	return writeRows(w, rows)
}

func (c Comparison[T]) header(ratios []Ratio[T]) []string {
	header := []string{c.Title}
	for _, f := range c.Figures {
		header = append(header, f.Name)
		if f.Range {
			header = append(header, "min", "max")
		}
	}
	for _, r := range ratios {
		header = append(header, r.Name)
	}
	return header
}

func (c Comparison[T]) row(s Series[T], ratios []Ratio[T]) []string {
	row := []string{s.Name}
	for _, f := range c.Figures {
		spread := SpreadOf(s.values(f.Of))
		row = append(row, decimal(spread.Median, f.Digits))
		if f.Range {
			row = append(row, decimal(spread.Min, f.Digits), decimal(spread.Max, f.Digits))
		}
	}
	for _, r := range ratios {
		cell := ""
		if spread, ok := c.ratio(r, s); ok {
			cell = decimal(spread.Median, 2)
		}
		row = append(row, cell)
	}
	return row
}

func decimal(f float64, digits int) string { return strconv.FormatFloat(f, 'f', digits, 64) }

// writeRows aligns the first column to the left and the others to the right. An empty
// line follows.
func writeRows(w io.Writer, rows [][]string) error {
	width := 0
	for _, row := range rows {
		width = max(width, len(row[0]))
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range rows {
		if _, err := fmt.Fprintf(tw, "%-*s\t%s\t\n", width, row[0], strings.Join(row[1:], "\t")); err != nil {
			return err
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}
