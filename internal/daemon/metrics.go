package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/dualrepl/dualrepl/internal/prune"
	"github.com/dualrepl/dualrepl/rpc"
)

// The values of the label result.
const (
	resultDone    = "done"
	resultFailed  = "failed"
	resultStopped = "stopped" // with the daemon
)

// metrics are the figures of a daemon. docs/config.md tells what each is.
type metrics struct {
	registry     *prometheus.Registry
	replications *prometheus.CounterVec
	lastSuccess  *prometheus.GaugeVec
	attempts     *prometheus.CounterVec
	steps        *prometheus.CounterVec
	bytes        *prometheus.CounterVec
	snapshots    *prometheus.CounterVec
	prunings     *prometheus.CounterVec
	destroyed    *prometheus.CounterVec
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "dualrepl_" + name, Help: help}, labels)
	}
	m := &metrics{
		registry:     prometheus.NewRegistry(),
		replications: counter("replications_total", "Replications that ended.", "job", "result"),
		lastSuccess: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "dualrepl_replication_last_success_timestamp_seconds", Help: "When the last replication was done; 0: never.",
		}, []string{"job"}),
		attempts:  counter("replication_failed_attempts_total", "Attempts that failed, whether or not a later one succeeded.", "job"),
		steps:     counter("replication_steps_total", "Steps that were completed.", "job"),
		bytes:     counter("replication_bytes_total", "Bytes of streams handed to the receiver.", "job"),
		snapshots: counter("snapshots_total", "Snapshots of filesystems.", "job", "result"),
		prunings:  counter("prunings_total", "Prunings that ended.", "job", "side", "result"),
		destroyed: counter("snapshots_destroyed_total", "Snapshots that prunings have destroyed.", "job", "side"),
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.replications, m.lastSuccess, m.attempts, m.steps, m.bytes, m.snapshots, m.prunings, m.destroyed,
	)
	return m
}

// jobMetrics are those of one job.
type jobMetrics struct {
	*metrics
	job string
}

// of returns a job's metrics. What it may ever count is there from the start, as 0.
func (m *metrics) of(j *Job) jobMetrics {
	name := j.Name()
	if j.conf.Active() {
		for _, result := range []string{resultDone, resultFailed, resultStopped} {
			m.replications.WithLabelValues(name, result)
		}
		m.lastSuccess.WithLabelValues(name)
		m.attempts.WithLabelValues(name)
		m.steps.WithLabelValues(name)
		m.bytes.WithLabelValues(name)
	}
	if j.sends() {
		m.snapshots.WithLabelValues(name, resultDone)
		m.snapshots.WithLabelValues(name, resultFailed)
	}
	for side, rules := range j.rulesOf() {
		if len(rules) > 0 {
			m.prunings.WithLabelValues(name, side, resultDone)
			m.prunings.WithLabelValues(name, side, resultFailed)
			m.destroyed.WithLabelValues(name, side)
		}
	}
	return jobMetrics{m, name}
}

// replicated counts a replication; r is nil if it could not even begin.
func (m jobMetrics) replicated(r *Replication, result string) {
	m.replications.WithLabelValues(m.job, result).Inc()
	if result == resultDone {
		m.lastSuccess.WithLabelValues(m.job).SetToCurrentTime()
	}
	if r == nil {
		return
	}
	for _, fs := range r.Filesystems {
		m.attempts.WithLabelValues(m.job).Add(float64(fs.Failures))
		m.steps.WithLabelValues(m.job).Add(float64(len(fs.Steps)))
		m.bytes.WithLabelValues(m.job).Add(float64(fs.Bytes))
	}
}

// snapshotsTaken counts snapshots; without any, err is why.
func (m jobMetrics) snapshotsTaken(snapshots []Snapshot, err error) {
	if len(snapshots) == 0 && err != nil {
		m.snapshots.WithLabelValues(m.job, resultFailed).Inc()
	}
	for _, taken := range snapshots {
		result := resultDone
		if taken.Err != nil {
			result = resultFailed
		}
		m.snapshots.WithLabelValues(m.job, result).Inc()
	}
}

// pruned counts a pruning of one side.
func (m jobMetrics) pruned(r *prune.Report, err error) {
	result := resultDone
	if err != nil {
		result = resultFailed
	}
	m.prunings.WithLabelValues(m.job, r.Target, result).Inc()
	m.destroyed.WithLabelValues(m.job, r.Target).Add(float64(r.Destroyed()))
}

// watchPeer tells whether the client is connected.
func (m jobMetrics) watchPeer(c *rpc.Client) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dualrepl_peer_connected", Help: "Whether the other side is connected.",
		ConstLabels: prometheus.Labels{"job": m.job},
	}, func() float64 {
		if c.State() == rpc.Ready {
			return 1
		}
		return 0
	}))
}

// watchLimits tells of what clients have of a server's limits.
func (m *metrics) watchLimits(listener string, s *rpc.Server) {
	m.registry.MustRegister(newLimits(listener, s.Usage))
}

// limits is a prometheus.Collector of what clients have of limits.
type limits struct {
	usage                func() []rpc.Usage
	limit, used, refused *prometheus.Desc
}

func newLimits(listener string, usage func() []rpc.Usage) *limits {
	desc := func(name, help string) *prometheus.Desc {
		labels := prometheus.Labels{"listener": listener}
		return prometheus.NewDesc("dualrepl_limit"+name, help, []string{"limit", "client"}, labels)
	}
	return &limits{
		usage:   usage,
		limit:   desc("", "What a client may have at once."),
		used:    desc("_in_use", "What a client has."),
		refused: desc("_refused_total", "What a client was refused."),
	}
}

// Describe implements prometheus.Collector.
func (l *limits) Describe(descs chan<- *prometheus.Desc) {
	descs <- l.limit
	descs <- l.used
	descs <- l.refused
}

// Collect implements prometheus.Collector.
func (l *limits) Collect(all chan<- prometheus.Metric) {
	for _, u := range l.usage() {
		if u.Max == 0 { // handshakes of a passive side that connects: nobody connects to it
			continue
		}
		all <- prometheus.MustNewConstMetric(l.limit, prometheus.GaugeValue, float64(u.Max), u.Limit, u.Client)
		all <- prometheus.MustNewConstMetric(l.used, prometheus.GaugeValue, float64(u.InUse), u.Limit, u.Client)
		all <- prometheus.MustNewConstMetric(l.refused, prometheus.CounterValue, float64(u.Refused), u.Limit, u.Client)
	}
}

// A page is where metrics can be read.
type page struct {
	server   *http.Server
	listener net.Listener
	logger   *slog.Logger
}

// What a reader of metrics may take.
const (
	pageHeaderTimeout = 5 * time.Second
	pageWriteTimeout  = 30 * time.Second
	pageIdleTimeout   = 2 * time.Minute // more than most intervals of scraping
	pageRequests      = 8               // at once; more are answered with 503
	pageHeaderBytes   = 16 << 10
)

func openPage(ctx context.Context, address string, m *metrics, logger *slog.Logger) (*page, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	handler := http.NewServeMux()
	handler.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: pageRequests}))
	return &page{logger: logger, listener: l, server: &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: pageHeaderTimeout,
		WriteTimeout:      pageWriteTimeout,
		IdleTimeout:       pageIdleTimeout,
		MaxHeaderBytes:    pageHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}}, nil
}

// run serves until ctx ends.
func (p *page) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, p.close)()
	p.logger.Info("monitoring", "url", fmt.Sprintf("http://%s/metrics", p.listener.Addr()))
	if err := p.server.Serve(p.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("monitoring: %w", err)
	}
	return nil
}

// close ends the reading of metrics, too: they are read again elsewhere.
func (p *page) close() {
	_ = p.server.Close()
	_ = p.listener.Close() // nothing was accepted, if it was never served
}
