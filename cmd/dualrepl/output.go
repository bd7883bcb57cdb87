package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/internal/terminal"
)

// addJSONFlag gives the command --json.
func addJSONFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("json", false, "print the result as JSON, for scripts")
}

// printJSON prints v indented, as people look at it too.
func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// printTable prints rows of cells, which may hold any text, in aligned columns.
func printTable(w io.Writer, rows [][]string) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = terminal.Printable(cell)
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	return table.Flush()
}

// counted writes a number with its noun: "1 file", "2 files", "3 entries".
func counted[N ~int | ~int64 | ~uint64](n N, noun string) string {
	stem, isY := strings.CutSuffix(noun, "y")
	switch {
	case n == 1:
		return "1 " + noun
	case isY:
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// shownAtMost bounds the lines of a list for people; --json has them all.
const shownAtMost = 10

// printSome prints a heading and the first lines of a list, which may hold any text, and
// nothing for an empty one.
func printSome(w io.Writer, heading string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(w, heading)
	for _, line := range lines[:min(len(lines), shownAtMost)] {
		fmt.Fprintln(w, " ", terminal.Printable(line))
	}
	if more := len(lines) - shownAtMost; more > 0 {
		fmt.Fprintf(w, "  and %d more (--json lists them all)\n", more)
	}
}

// guid writes a GUID as all of dualrepl does: a number of 64 bits is not safe in JSON.
func guid(g uint64) string { return fmt.Sprintf("%016x", g) }

// firstError is the first error there is: what failed says more than that it could
// not be printed.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// escaped makes text of a path, whose bytes need not be UTF-8.
func escaped(path string) string {
	if utf8.ValidString(path) {
		return path
	}
	quoted := strconv.Quote(path)
	return quoted[1 : len(quoted)-1]
}
