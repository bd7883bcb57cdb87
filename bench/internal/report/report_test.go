package report

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestSpreadOf(t *testing.T) {
	for _, test := range []struct {
		name   string
		values []float64
		want   Spread
	}{
		{"one", []float64{3}, Spread{3, 3, 3}},
		{"odd", []float64{9, 1, 2}, Spread{2, 1, 9}},
		{"even", []float64{4, 1, 2, 10}, Spread{3, 1, 10}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := SpreadOf(test.values); got != test.want {
				t.Errorf("SpreadOf(%v) = %v, want %v", test.values, got, test.want)
			}
		})
	}
}

// A machine that is half as fast in one round changes no ratio.
func TestRatiosArePaired(t *testing.T) {
	reference := []float64{4, 2, 4}
	values := []float64{2, 1, 2}
	if got, want := Ratios(values, reference), (Spread{0.5, 0.5, 0.5}); got != want {
		t.Errorf("Ratios = %v, want %v", got, want)
	}
}

type round struct {
	Speed, CPU float64
}

func speed(r round) float64 { return r.Speed }

func example() Comparison[round] {
	return Comparison[round]{
		Title: "send",
		Figures: []Figure[round]{
			{Name: "GiB/s", Of: speed, Digits: 2, Range: true},
			{Name: "CPU", Of: func(r round) float64 { return r.CPU }},
		},
		Ratios: []Ratio[round]{
			{Name: "speed/a", Of: speed, To: "a"},
			{Name: "speed/b", Of: speed, To: "b", Only: []string{"b", "c <tls>"}},
			{Name: "speed/absent", Of: speed, To: "absent"},
		},
		Series: []Series[round]{
			{"a", []round{{4, 1}, {2, 1}}},
			{"b", []round{{1, 10}, {1, 20}}},
			{"c <tls>", []round{{2, 7}, {2, 8}}},
		},
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	if err := example().WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	want := strings.TrimPrefix(`
  send     GiB/s   min   max  CPU  speed/a  speed/b
  a         3.00  2.00  4.00    1     1.00         
  b         1.00  1.00  1.00   15     0.38     1.00
  c <tls>   2.00  2.00  2.00    8     0.75     2.00

`, "\n")
	if out.String() != want {
		t.Errorf("table is\n%q, want\n%q", out.String(), want)
	}
}

func TestJSON(t *testing.T) {
	text, err := json.Marshal(example().JSON())
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Title  string
		Series []struct {
			Name            string
			Figures, Ratios map[string]Spread
			Rounds          []round
		}
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	b := got.Series[1]
	if got.Title != "send" || b.Name != "b" || len(b.Rounds) != 2 {
		t.Fatalf("JSON is %s", text)
	}
	if want := (Spread{15, 10, 20}); b.Figures["CPU"] != want {
		t.Errorf("CPU is %v, want %v", b.Figures["CPU"], want)
	}
	if want := (Spread{0.375, 0.25, 0.5}); b.Ratios["speed/a"] != want {
		t.Errorf("speed/a is %v, want %v", b.Ratios["speed/a"], want)
	}
	if _, ok := b.Ratios["speed/absent"]; ok {
		t.Error("there is a ratio to nothing")
	}
}

func TestMachine(t *testing.T) {
	m, err := ThisMachine()
	if err != nil {
		t.Fatal(err)
	}
	if m.Cores < 1 || m.Memory < 1 || m.Kernel == "" || m.Go == "" || m.CPU == "" || m.Date == "" {
		t.Errorf("machine is %+v", m)
	}
}

func TestCPUModel(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"processor\t: 0\nmodel\t\t: 17\nmodel name\t: Some CPU: fast\n\nmodel name\t: other\n", "Some CPU: fast"},
		{"processor\t: 0\nBogoMIPS\t: 50\n", ""},
		{"", ""},
	} {
		got, found := cpuModel([]byte(test.text))
		if got != test.want || found != (test.want != "") {
			t.Errorf("cpuModel(%q) = %q, %t", test.text, got, found)
		}
	}
}
