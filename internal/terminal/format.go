package terminal

import (
	"fmt"
	"strconv"
	"time"
)

// units are the binary prefixes, each 1024 times the one before.
var units = []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}

// Bytes writes a number of bytes in the largest unit that leaves at least 1 before
// the point: "0 B", "1.5 KiB", "812 MiB".
func Bytes(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " B"
	}
	return scaled(float64(n))
}

// scaled writes a number of bytes with three digits that matter.
func scaled(value float64) string {
	unit := 0
	// 999.5 would be written as 1000; the next unit says it in three digits.
	for value >= 999.5 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	return significant(value) + " " + units[unit]
}

// significant writes a value below 1000 with three digits that matter.
func significant(value float64) string {
	switch {
	case value >= 99.95:
		return fmt.Sprintf("%.0f", value)
	case value >= 9.995:
		return fmt.Sprintf("%.1f", value)
	default:
		return fmt.Sprintf("%.2f", value)
	}
}

// Duration writes an elapsed time for people: "850 ms", "3.2 s", "2m03s", "1h05m".
func Duration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Duration(-d)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute-50*time.Millisecond:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour-500*time.Millisecond:
		seconds := int(d.Round(time.Second) / time.Second)
		return fmt.Sprintf("%dm%02ds", seconds/60, seconds%60)
	default:
		minutes := int(d.Round(time.Minute) / time.Minute)
		return fmt.Sprintf("%dh%02dm", minutes/60, minutes%60)
	}
}
