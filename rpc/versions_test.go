package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transportmux"
)

// snapshots makes n of them, oldest first, with names that are longer than length by a
// number's digits.
func snapshots(n, length int) []*pdu.FilesystemVersion {
	list, prefix := make([]*pdu.FilesystemVersion, n), strings.Repeat("n", length)
	for i := range list {
		list[i] = &pdu.FilesystemVersion{
			Name: prefix + strconv.Itoa(i), Guid: uint64(n - i), CreateTXG: uint64(i + 1), Creation: "2026-01-02T03:04:05Z",
		}
	}
	return list
}

// listOf asks for the versions of "a/b", in pages of size from token on.
func listOf(size uint32, token string) *pdu.ListFilesystemVersionsReq {
	return &pdu.ListFilesystemVersionsReq{Filesystem: "a/b", PageSize: size, PageToken: token}
}

func checkVersions(t *testing.T, got, want []*pdu.FilesystemVersion) {
	t.Helper()
	equal := func(a, b *pdu.FilesystemVersion) bool { return proto.Equal(a, b) }
	if !slices.EqualFunc(got, want, equal) {
		t.Errorf("%d versions, not the %d wanted ones in their order", len(got), len(want))
	}
}

// A list arrives whole, in as few pages as the limits allow, and is made once.
func TestVersionsInPages(t *testing.T) {
	twice := func(list []*pdu.FilesystemVersion) []*pdu.FilesystemVersion {
		var pairs []*pdu.FilesystemVersion
		for _, v := range list {
			b := proto.CloneOf(v)
			b.Type = pdu.FilesystemVersion_Bookmark
			pairs = append(pairs, b, v)
		}
		return pairs
	}
	for name, c := range map[string]struct {
		list  []*pdu.FilesystemVersion // in the order of pages
		pages uint64
	}{
		"none":                    {nil, 1},
		"one":                     {snapshots(1, 10), 1},
		"one page":                {snapshots(maxPageVersions, 6), 1},
		"one too many for a page": {snapshots(maxPageVersions+1, 6), 2},
		"long names":              {snapshots(30_000, endpoint.MaxNameLength-5), 3},
		"with bookmarks":          {twice(snapshots(maxPageVersions, 6)), 2},
	} {
		for _, order := range []string{"sorted", "reversed"} {
			t.Run(name+" "+order, func(t *testing.T) {
				h, lists := &fake{versions: slices.Clone(c.list)}, 0
				h.hook = func(context.Context, string, proto.Message) error { lists++; return nil }
				if order == "reversed" {
					slices.Reverse(h.versions)
				}
				client := connect(t, localPair, h)
				res, err := client.ListFilesystemVersions(t.Context(), listOf(7, "not used"))
				check(t, err)
				checkVersions(t, res.Versions, c.list)
				if pages := client.Stats().ControlCalls; pages != c.pages || lists != 1 {
					t.Errorf("%d pages of %d lists, not %d of one", pages, lists, c.pages)
				}
			})
		}
	}
}

// A million versions cost what they are, and no page is larger than promised.
func TestMillionVersions(t *testing.T) {
	const n, perVersion = 1_000_000, 600 // bytes allocated, by endpoint, server and client together
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	client := connect(t, tcpPair, &fake{versions: snapshots(n, 25)})
	res, err := client.ListFilesystemVersions(t.Context(), listOf(0, ""))
	check(t, err)
	runtime.ReadMemStats(&after)
	byAge := func(a, b *pdu.FilesystemVersion) int { return cmp.Compare(a.CreateTXG, b.CreateTXG) }
	if len(res.Versions) != n || !slices.IsSortedFunc(res.Versions, byAge) {
		t.Errorf("%d versions, or not by age", len(res.Versions))
	}
	stats := client.Stats()
	if mean := stats.ControlReceived / stats.ControlCalls; mean > maxPage {
		t.Errorf("%d bytes in %d pages", stats.ControlReceived, stats.ControlCalls)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > n*perVersion {
		t.Errorf("%d bytes allocated for each version", allocated/n)
	}
}

// lister is the server's end without a wire.
type lister struct {
	controlService
	handler endpoint.Endpoint
}

func newLister(h endpoint.Endpoint) lister {
	return lister{controlService{lists: &keptList{}}, h}
}

func (l lister) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	client, _ := transport.ClientIdentityFromContext(ctx)
	ctx = contextWithOrigin(ctx, &origin{client: client, route: RouteFromContext(ctx), target: Route{Endpoint: l.handler}})
	return l.controlService.ListFilesystemVersions(ctx, req)
}

// Whatever page a client asks for is within both limits, and not empty.
func TestPageLimits(t *testing.T) {
	sized := func(n, size int) []*pdu.FilesystemVersion {
		list := snapshots(n, 1)
		for _, v := range list {
			v.Creation = strings.Repeat("x", size)
		}
		return list
	}
	for name, c := range map[string]struct {
		list []*pdu.FilesystemVersion
		size uint32
		want int
	}{
		"nothing":             {nil, 1, 0},
		"as asked":            {snapshots(10, 5), 3, 3},
		"the rest":            {snapshots(10, 5), 11, 10},
		"all that there is":   {snapshots(maxPageVersions+5, 1), 1<<32 - 1, maxPageVersions},
		"too many bytes":      {sized(3, maxPage/2), 3, 1},
		"one larger than any": {sized(2, maxPage), 3, 1},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := newLister(&fake{versions: c.list}).ListFilesystemVersions(t.Context(), listOf(c.size, ""))
			check(t, err)
			if len(res.Versions) != c.want || (res.NextPageToken == "") != (c.want == len(c.list)) {
				t.Errorf("%d versions, token %q", len(res.Versions), res.NextPageToken)
			}
			if size := proto.Size(res); size > 4*megabyte {
				t.Errorf("a page of %d bytes", size)
			}
		})
	}
}

// changing is an endpoint's list to which versions come and from which they go.
type changing struct {
	fake
	random *rand.Rand
	stayed map[string]bool // names of those there from the beginning on
}

func newChanging(seed uint64) *changing {
	c := &changing{random: rand.New(rand.NewPCG(seed, 0)), stayed: map[string]bool{}}
	for i := range 100 {
		c.create(fmt.Sprint("first.", i))
		c.stayed[fmt.Sprint("first.", i)] = true
	}
	return c
}

// create makes a version of any age: one that was received may be older than others. Few
// ages and GUIDs make for many that differ by name only.
func (c *changing) create(name string) {
	c.versions = append(slices.Clone(c.versions), &pdu.FilesystemVersion{
		Name: name, CreateTXG: c.random.Uint64N(10), Guid: 1 + c.random.Uint64N(3),
		Type: pdu.FilesystemVersion_VersionType(c.random.IntN(2)),
	})
}

// change destroys the version that the page ended with or any other, and creates one.
func (c *changing) change(page []*pdu.FilesystemVersion) {
	gone := c.versions[c.random.IntN(len(c.versions))].Name
	if c.random.IntN(2) == 0 {
		gone = page[len(page)-1].Name
	}
	c.versions = slices.DeleteFunc(slices.Clone(c.versions), func(v *pdu.FilesystemVersion) bool { return v.Name == gone })
	delete(c.stayed, gone)
	c.create(fmt.Sprint("later.", c.random.Uint64()))
}

// Versions that are created or destroyed between pages make no other be skipped or
// listed twice, whether the server kept the list or made it anew. Time is virtual.
func TestVersionsComeAndGoBetweenPages(t *testing.T) {
	for seed := range uint64(50) {
		for _, pause := range []time.Duration{0, keepList + 1} {
			synctest.Test(t, func(t *testing.T) {
				c := newChanging(seed)
				s, seen := newLister(c), map[string]int{}
				for req := listOf(1+uint32(seed%7), ""); ; time.Sleep(pause) {
					res, err := s.ListFilesystemVersions(t.Context(), req)
					check(t, err)
					for _, v := range res.Versions {
						seen[v.Name]++
					}
					if req.PageToken = res.NextPageToken; req.PageToken == "" {
						break
					}
					c.change(res.Versions)
				}
				c.checkSeen(t, seen)
			})
		}
	}
}

func (c *changing) checkSeen(t *testing.T, seen map[string]int) {
	t.Helper()
	for name := range c.stayed {
		if seen[name] == 0 {
			t.Errorf("%s was skipped", name)
		}
	}
	for name, times := range seen {
		if times > 1 {
			t.Errorf("%s was listed %d times", name, times)
		}
	}
}

// What is left of a list goes to the client and filesystem it was made for, once, and
// not for long. Time is virtual.
func TestKeptList(t *testing.T) {
	for name, c := range map[string]struct {
		then  func(s lister, ctx context.Context, token string)
		lists int // made until the second page is there
	}{
		"at once":  {func(lister, context.Context, string) {}, 1},
		"in time":  {func(lister, context.Context, string) { time.Sleep(keepList - 1) }, 1},
		"too late": {func(lister, context.Context, string) { time.Sleep(keepList + 1) }, 2},
		"asked for again": {func(s lister, ctx context.Context, token string) {
			s.ListFilesystemVersions(ctx, listOf(1, token))
		}, 2},
		"another client": {func(s lister, ctx context.Context, token string) {
			s.ListFilesystemVersions(transport.ContextWithClientIdentity(ctx, "bob"), listOf(1, token))
		}, 3},
		"another route": {func(s lister, ctx context.Context, token string) {
			s.ListFilesystemVersions(contextWithOrigin(ctx, &origin{client: alice, route: "r"}), listOf(1, token))
		}, 3},
		"another filesystem": {func(s lister, ctx context.Context, token string) {
			s.ListFilesystemVersions(ctx, &pdu.ListFilesystemVersionsReq{Filesystem: "c", PageSize: 1, PageToken: token})
		}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, lists := transport.ContextWithClientIdentity(t.Context(), alice), 0
				list := snapshots(5, 3)
				s := newLister(&fake{versions: list, hook: func(context.Context, string, proto.Message) error { lists++; return nil }})
				first, err := s.ListFilesystemVersions(ctx, listOf(1, ""))
				check(t, err)
				c.then(s, ctx, first.NextPageToken)
				second, err := s.ListFilesystemVersions(ctx, listOf(1, first.NextPageToken))
				check(t, err)
				checkVersions(t, second.Versions, list[1:2])
				if lists != c.lists {
					t.Errorf("the endpoint made %d lists, not %d", lists, c.lists)
				}
			})
		})
	}
}

// A client of the base protocol asks for no pages, and gets the endpoint's list as it is,
// if it fits a message.
func TestVersionsForBaseClient(t *testing.T) {
	list := snapshots(2*maxPageVersions, 10)
	slices.Reverse(list)
	h := &fake{versions: list}
	client := connect(t, localPair, h)
	res, err := client.control.ListFilesystemVersions(t.Context(), listOf(0, ""))
	check(t, err)
	checkVersions(t, res.Versions, list)
	if res.NextPageToken != "" {
		t.Errorf("a token %q for who asked for no pages", res.NextPageToken)
	}

	h.versions = snapshots(2, maxMessage/2)
	_, err = client.control.ListFilesystemVersions(t.Context(), listOf(0, ""))
	checkTooLarge(t, err, `the 2 versions of "a/b"`, "at most 67108864 fit", "PageSize")
}

func checkTooLarge(t *testing.T, err error, texts ...string) {
	t.Helper()
	if !errors.Is(err, ErrTooLarge) || errors.Is(err, endpoint.ErrNoSpace) || status.Code(err) == codes.Unavailable {
		t.Errorf("error is %.300v", err)
	}
	for _, text := range texts {
		if !strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("no %q in %.300v", text, err)
		}
	}
}

// Tokens that no page ended with are the client's mistake.
func TestBadPageTokens(t *testing.T) {
	client := connect(t, localPair, &fake{hook: func(context.Context, string, proto.Message) error {
		t.Error("the endpoint was asked")
		return nil
	}})
	bad := []string{"x", "1", "1.2", "1.2.0", "1.2.x.name", "-1.2.0.name", "01.2.0.name", "1.+2.0.name", "1.2.4294967296.name", "18446744073709551616.2.0.name"}
	requests := []*pdu.ListFilesystemVersionsReq{listOf(0, "1.2.0.name")}
	for _, token := range append(bad, strings.Repeat("1", megabyte)) {
		requests = append(requests, listOf(1, token))
	}
	for _, req := range requests {
		_, err := client.control.ListFilesystemVersions(t.Context(), req)
		if !errors.Is(err, endpoint.ErrInvalid) || len(err.Error()) > 500 {
			t.Errorf("token %.30q: error is %.300v", req.PageToken, err)
		}
	}
}

// FuzzPageToken: a token is taken only if a page can have ended with it.
func FuzzPageToken(f *testing.F) {
	f.Add(pageToken(version()))
	f.Add(pageToken(bookmark()))
	f.Fuzz(func(t *testing.T, token string) {
		last, err := parsePageToken(token)
		switch {
		case err != nil && !errors.Is(err, endpoint.ErrInvalid):
			t.Errorf("error is %v", err)
		case err == nil && pageToken(last) != token:
			t.Errorf("%q is the token of %v", token, last)
		}
	})
}

// foreignPeer is a passive side that is not ours: a bare gRPC server.
type foreignPeer struct {
	pdu.UnimplementedReplicationServer
	answer func(*pdu.ListFilesystemVersionsReq) *pdu.ListFilesystemVersionsRes
}

func (p *foreignPeer) ListFilesystemVersions(_ context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	return p.answer(req), nil
}

// connectForeign serves p until the test's end and returns a client of it.
func connectForeign(t *testing.T, p *foreignPeer) *Client {
	l, c := localPair(t)
	ctx, stop := context.WithCancel(context.Background())
	conns := &handover{conns: make(chan net.Conn), closed: make(chan struct{}), addr: l.Addr()}
	server := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMinInterval, PermitWithoutStream: true}))
	pdu.RegisterReplicationServer(server, p)
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(conns) })
	serving.Go(func() {
		transportmux.Serve(ctx, l, map[string]transportmux.Handler{
			transportmux.LabelControl: func(_ context.Context, conn *transportmux.Conn) { conns.offer(conn) },
		}, transportmux.ServeOptions{})
	})
	t.Cleanup(func() {
		stop()
		server.Stop()
		serving.Wait()
	})
	return newClient(t, c, ClientOptions{})
}

// A peer of the base protocol knows the filesystem's field only, and answers at once.
func TestVersionsOfBasePeer(t *testing.T) {
	list := snapshots(3*maxPageVersions, 30)
	p := &foreignPeer{answer: func(*pdu.ListFilesystemVersionsReq) *pdu.ListFilesystemVersionsRes {
		return &pdu.ListFilesystemVersionsRes{Versions: list}
	}}
	client := connectForeign(t, p)
	res, err := client.ListFilesystemVersions(t.Context(), listOf(0, ""))
	check(t, err)
	checkVersions(t, res.Versions, list)

	list = snapshots(2, maxMessage/2)
	_, err = client.ListFilesystemVersions(t.Context(), listOf(0, ""))
	checkTooLarge(t, err, `versions of "a/b"`, "64 MiB", "does not page", "destroy versions")
	if calls := client.Stats().ControlCalls; calls != 2 {
		t.Errorf("%d calls", calls)
	}
}

// Each page has the call's time, not all of them. Time is virtual.
func TestDeadlineIsOfPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := connectForeign(t, &foreignPeer{answer: func(req *pdu.ListFilesystemVersionsReq) *pdu.ListFilesystemVersionsRes {
			time.Sleep(DefaultCallTimeout - time.Second)
			res := &pdu.ListFilesystemVersionsRes{Versions: snapshots(1, 1), NextPageToken: req.PageToken + "x"}
			if len(req.PageToken) == 9 {
				res.NextPageToken = ""
			}
			return res
		}})
		res, err := client.ListFilesystemVersions(t.Context(), listOf(0, ""))
		check(t, err)
		if len(res.Versions) != 10 {
			t.Errorf("%d versions", len(res.Versions))
		}
	})
}

// However a peer goes on, a list ends.
func TestHostilePages(t *testing.T) {
	one := snapshots(1, 1)
	circle := func(req *pdu.ListFilesystemVersionsReq) string { return fmt.Sprint(req.PageToken != "true") }
	for name, c := range map[string]struct {
		answer func(*pdu.ListFilesystemVersionsReq) ([]*pdu.FilesystemVersion, string)
		want   string
		pages  uint64
	}{
		"same token":  {func(*pdu.ListFilesystemVersionsReq) ([]*pdu.FilesystemVersion, string) { return one, "x" }, "leads to itself", 2},
		"empty page":  {func(*pdu.ListFilesystemVersionsReq) ([]*pdu.FilesystemVersion, string) { return nil, "x" }, "empty page", 1},
		"in a circle": {func(req *pdu.ListFilesystemVersionsReq) ([]*pdu.FilesystemVersion, string) { return one, circle(req) }, "more than 1000 pages", maxPages},
		"long token": {func(*pdu.ListFilesystemVersionsReq) ([]*pdu.FilesystemVersion, string) {
			return one, strings.Repeat("x", maxPageToken+1)
		}, "token of 1025 bytes", 1},
	} {
		t.Run(name, func(t *testing.T) {
			client := connectForeign(t, &foreignPeer{answer: func(req *pdu.ListFilesystemVersionsReq) *pdu.ListFilesystemVersionsRes {
				versions, next := c.answer(req)
				return &pdu.ListFilesystemVersionsRes{Versions: versions, NextPageToken: next}
			}})
			_, err := client.ListFilesystemVersions(t.Context(), listOf(0, ""))
			if text := fmt.Sprint(err); !strings.Contains(text, c.want) || !strings.Contains(text, `"a/b"`) || errors.Is(err, ErrTooLarge) {
				t.Errorf("error is %.300v", err)
			}
			if pages := client.Stats().ControlCalls; pages != c.pages {
				t.Errorf("gave up after %d pages, not %d", pages, c.pages)
			}
		})
	}
}

// A page that is too large is no sign of a peer that does not page.
func TestLaterPageTooLarge(t *testing.T) {
	client := connectForeign(t, &foreignPeer{answer: func(req *pdu.ListFilesystemVersionsReq) *pdu.ListFilesystemVersionsRes {
		return &pdu.ListFilesystemVersionsRes{Versions: snapshots(1, len(req.PageToken)*maxMessage), NextPageToken: "x"}
	}})
	_, err := client.ListFilesystemVersions(t.Context(), listOf(0, ""))
	checkTooLarge(t, err)
	if strings.Contains(fmt.Sprint(err), "does not page") {
		t.Errorf("error is %v", err)
	}
}

// A list has a largest size, whatever pages it comes in, and a good one is within it.
func TestListLimits(t *testing.T) {
	for name, c := range map[string]struct {
		page []*pdu.FilesystemVersion
		fit  int // that many of the page
	}{
		"versions": {make([]*pdu.FilesystemVersion, maxVersions/10), 10},
		"bytes":    {snapshots(1, maxList/8), 7},
	} {
		t.Run(name, func(t *testing.T) {
			var list pagedList
			page, res := listOf(1, ""), &pdu.ListFilesystemVersionsRes{Versions: c.page, NextPageToken: "x"}
			for range c.fit {
				check(t, list.add(page, res))
			}
			checkTooLarge(t, list.add(page, res), "2000000 versions", "256 MiB", "destroy versions")
		})
	}
}
