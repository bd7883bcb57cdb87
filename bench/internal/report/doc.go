// Package report makes the figures of rounds into medians, ratios paired by round,
// tables, JSON and charts.
package report
