package report

import "slices"

// A Spread is what one figure was over the rounds.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// SpreadOf needs at least one value.
func SpreadOf(values []float64) Spread {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return Spread{(sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[0], sorted[n-1]}
}

// Ratios divides, round by round: what disturbs one round disturbs both of its parts.
func Ratios(values, reference []float64) Spread {
	ratios := make([]float64, len(values))
	for i := range values {
		ratios[i] = values[i] / reference[i]
	}
	return SpreadOf(ratios)
}

// A Figure is what one column of a table shows of each round.
type Figure[T any] struct {
	Name   string // with its unit
	Of     func(round T) float64
	Digits int  // behind the decimal point
	Range  bool // the table has columns for the least and the largest, too
}

// Series is what one contender's rounds came to.
type Series[T any] struct {
	Name   string
	Rounds []T
}

func (s Series[T]) values(of func(T) float64) []float64 {
	values := make([]float64, len(s.Rounds))
	for i, round := range s.Rounds {
		values[i] = of(round)
	}
	return values
}

// A Ratio compares one figure with another series', round by round.
type Ratio[T any] struct {
	Name string // of the column
	Of   func(round T) float64
	// To is the name of the series that others are divided by. The column is left out
	// if there is none.
	To string
	// Only are the series that are compared; nil means all.
	Only []string
}

// A Comparison is what several contenders came to at one kind of work.
type Comparison[T any] struct {
	Title   string
	Figures []Figure[T]
	Ratios  []Ratio[T]
	Series  []Series[T] // each with the same number of rounds, at least one
}

// find returns the series of a name.
func (c Comparison[T]) find(name string) (Series[T], bool) {
	i := slices.IndexFunc(c.Series, func(s Series[T]) bool { return s.Name == name })
	if i < 0 {
		return Series[T]{}, false
	}
	return c.Series[i], true
}

// ratio returns what r is for s; false if r is not for s.
func (c Comparison[T]) ratio(r Ratio[T], s Series[T]) (Spread, bool) {
	reference, found := c.find(r.To)
	if !found || r.Only != nil && !slices.Contains(r.Only, s.Name) {
		return Spread{}, false
	}
	return Ratios(s.values(r.Of), reference.values(r.Of)), true
}

// summary is a series as JSON.
type summary[T any] struct {
	Name    string            `json:"name"`
	Figures map[string]Spread `json:"figures"`
	Ratios  map[string]Spread `json:"ratios,omitempty"`
	Rounds  []T               `json:"rounds"`
}

// JSON returns what encodes as the comparison's title and, of each series, the spread
// of each figure, that of each ratio, and the rounds themselves.
func (c Comparison[T]) JSON() any {
	summaries := make([]summary[T], len(c.Series))
	for i, s := range c.Series {
		sum := summary[T]{s.Name, map[string]Spread{}, map[string]Spread{}, s.Rounds}
		for _, f := range c.Figures {
			sum.Figures[f.Name] = SpreadOf(s.values(f.Of))
		}
		for _, r := range c.Ratios {
			if spread, ok := c.ratio(r, s); ok {
				sum.Ratios[r.Name] = spread
			}
		}
		summaries[i] = sum
	}
	return struct {
		Title  string       `json:"title"`
		Series []summary[T] `json:"series"`
	}{c.Title, summaries}
}
