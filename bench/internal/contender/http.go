package contender

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

var http1 = Contender{
	Name:  "http/1.1",
	About: "net/http, chunked, copy and transport with 1 MiB (its client reads bodies by 32 KiB)",
	Serve: onListener(func(ctx context.Context, l net.Listener, ends Ends) error {
		return serveHTTP(ctx, l, ends, func(p *http.Protocols) { p.SetHTTP1(true) })
	}),
	Dial: func(_ context.Context, address string) (Client, error) {
		return newHTTPClient(address, func(p *http.Protocols) { p.SetHTTP1(true) }), nil
	},
}

var http2 = Contender{
	Name:  "http/2",
	About: "net/http without TLS, 16 MiB windows, 1 MiB frames",
	Serve: onListener(func(ctx context.Context, l net.Listener, ends Ends) error {
		return serveHTTP(ctx, l, ends, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
	}),
	Dial: func(_ context.Context, address string) (Client, error) {
		return newHTTPClient(address, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }), nil
	},
}

// window is the flow-control window of contenders that have one, in bytes: more than
// loopback needs, and what a 10 Gbit/s path of 12 ms needs.
const window = 16 << 20

func http2Config() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxReadFrameSize: bufferSize, MaxReceiveBufferPerConnection: window, MaxReceiveBufferPerStream: window,
	}
}

func serveHTTP(ctx context.Context, l net.Listener, ends Ends, protocol func(*http.Protocols)) error {
	s := &http.Server{Handler: httpHandler{ends}, Protocols: new(http.Protocols), HTTP2: http2Config()}
	protocol(s.Protocols)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type httpHandler struct{ ends Ends }

// ServeHTTP implements http.Handler.
func (h httpHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var err error
	if r.Method == http.MethodPut {
		err = drain(h.ends, r.Body, bufferSize)
	} else {
		err = pour(h.ends, w, bufferSize)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the client sees a broken answer
	}
}

type httpClient struct {
	url    string
	client *http.Client
}

func newHTTPClient(address string, protocol func(*http.Protocols)) *httpClient {
	t := &http.Transport{
		Protocols: new(http.Protocols), HTTP2: http2Config(),
		ReadBufferSize: bufferSize, WriteBufferSize: bufferSize, DisableCompression: true,
	}
	protocol(t.Protocols)
	return &httpClient{"http://" + address + "/", &http.Client{Transport: t}}
}

// Send implements Client.
func (c *httpClient) Send(ctx context.Context, src io.Reader) error {
	// A body of a type of its own: the transport would learn the length of those it knows.
	return c.do(ctx, http.MethodPut, struct{ io.Reader }{src}, io.Discard)
}

// Receive implements Client.
func (c *httpClient) Receive(ctx context.Context, dst io.Writer) error {
	return c.do(ctx, http.MethodGet, nil, dst)
}

func (c *httpClient) do(ctx context.Context, method string, body io.Reader, dst io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, method, c.url, body)
	if err != nil {
		return err
	}
	res, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() // it was read to its end, or has failed
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", res.Status)
	}
	return copyPlain(dst, res.Body, bufferSize)
}

// Close implements Client.
func (c *httpClient) Close() error {
	c.client.CloseIdleConnections()
	return nil
}
