package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

// ListFilesystemVersions implements endpoint.Endpoint. The list is whole, whatever
// pages it came in; the page fields of req are not used.
func (c *Client) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	filesystem := req.GetFilesystem()
	page := &pdu.ListFilesystemVersionsReq{Filesystem: filesystem, PageSize: maxPageVersions}
	var list pagedList
	for range maxPages {
		res, err := c.control.ListFilesystemVersions(ctx, page)
		if err != nil {
			return nil, explainTooLarge(page, err)
		}
		if err := list.add(page, res); err != nil {
			return nil, fmt.Errorf("versions of %q: %w", filesystem, err)
		}
		page.PageToken = res.GetNextPageToken()
		if page.PageToken == "" {
			return &pdu.ListFilesystemVersionsRes{Versions: list.versions}, nil
		}
	}
	return nil, fmt.Errorf("versions of %q: the peer sends more than %d pages", filesystem, maxPages)
}

// explainTooLarge adds what to do about a list that did not fit a message: gRPC knows
// only the two numbers.
func explainTooLarge(page *pdu.ListFilesystemVersionsReq, err error) error {
	if page.GetPageToken() != "" || !errors.Is(err, ErrTooLarge) {
		return err
	}
	return fmt.Errorf("versions of %q: the list is larger than the %d MiB that fit a message, and the peer does not page its lists; destroy versions there to make it shorter: %w",
		page.GetFilesystem(), maxMessage>>20, err)
}

// pagedList is what a client has of a list. The peer decides how it goes on.
type pagedList struct {
	versions []*pdu.FilesystemVersion
	bytes    int // as encoded
}

// add appends the answer to page, unless no end of the list is in sight.
func (l *pagedList) add(page *pdu.ListFilesystemVersionsReq, res *pdu.ListFilesystemVersionsRes) error {
	l.versions = append(l.versions, res.GetVersions()...)
	l.bytes += proto.Size(res)
	next := res.GetNextPageToken()
	switch {
	case len(l.versions) > maxVersions || l.bytes > maxList:
		return fmt.Errorf("%w: the list has more than %d versions or %d MiB; destroy versions there to make it shorter", ErrTooLarge, maxVersions, maxList>>20)
	case next == "":
		return nil
	case len(res.GetVersions()) == 0:
		return errors.New("the peer sent an empty page that is not the last")
	case next == page.GetPageToken():
		return errors.New("the peer sent a page that leads to itself")
	case len(next) > maxPageToken:
		return fmt.Errorf("the peer sent a page token of %d bytes, at most %d", len(next), maxPageToken)
	}
	return nil
}

// ListFilesystemVersions implements pdu.ReplicationServer: in pages, if the client asks
// for them.
func (s controlService) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	if req.GetPageSize() == 0 {
		return s.listWhole(ctx, req)
	}
	rest, err := s.listRest(ctx, req)
	if err != nil {
		return nil, err
	}
	n := pageLength(rest, req.GetPageSize())
	res := &pdu.ListFilesystemVersionsRes{Versions: rest[:n]}
	if n < len(rest) {
		res.NextPageToken = pageToken(rest[n-1])
		s.lists.put(newListKey(ctx, req.GetFilesystem(), res.NextPageToken), rest[n:])
	}
	return res, nil
}

// list asks the endpoint, which knows of no pages.
func (s controlService) list(ctx context.Context, filesystem string) ([]*pdu.FilesystemVersion, error) {
	res, err := endpointOf(ctx).ListFilesystemVersions(ctx, &pdu.ListFilesystemVersionsReq{Filesystem: filesystem})
	return res.GetVersions(), err
}

// listWhole answers a client of the base protocol. What such a client receives in one
// message is not known; no implementation takes more than maxMessage.
func (s controlService) listWhole(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	if req.GetPageToken() != "" {
		return nil, fmt.Errorf("%w: PageToken without PageSize", endpoint.ErrInvalid)
	}
	list, err := s.list(ctx, req.GetFilesystem())
	if err != nil {
		return nil, err
	}
	res := &pdu.ListFilesystemVersionsRes{Versions: list}
	if size := proto.Size(res); size > maxMessage {
		return nil, fmt.Errorf("%w: the %d versions of %q are %d bytes, at most %d fit; list them in pages (PageSize), or destroy some",
			ErrTooLarge, len(list), req.GetFilesystem(), size, maxMessage)
	}
	return res, nil
}

// listRest returns, in the order of pages, what follows the page before. A list that was
// not kept is made anew: the token says where to go on in any list.
func (s controlService) listRest(ctx context.Context, req *pdu.ListFilesystemVersionsReq) ([]*pdu.FilesystemVersion, error) {
	token := req.GetPageToken()
	if token == "" {
		list, err := s.list(ctx, req.GetFilesystem())
		return inPageOrder(list), err
	}
	last, err := parsePageToken(token)
	if err != nil {
		return nil, err
	}
	if rest := s.lists.take(newListKey(ctx, req.GetFilesystem(), token)); rest != nil {
		return rest, nil
	}
	list, err := s.list(ctx, req.GetFilesystem())
	return after(inPageOrder(list), last), err
}

// comparePages orders versions as pages do: by age. Since a filesystem has no two
// snapshots and no two bookmarks of one name, no two versions are equal.
func comparePages(a, b *pdu.FilesystemVersion) int {
	return cmp.Or(
		cmp.Compare(a.GetCreateTXG(), b.GetCreateTXG()),
		cmp.Compare(a.GetGuid(), b.GetGuid()),
		cmp.Compare(b.GetType(), a.GetType()), // a bookmark before its snapshot
		strings.Compare(a.GetName(), b.GetName()),
	)
}

// inPageOrder leaves the list, which may be the endpoint's own, as it is.
func inPageOrder(list []*pdu.FilesystemVersion) []*pdu.FilesystemVersion {
	if slices.IsSortedFunc(list, comparePages) {
		return list
	}
	return slices.SortedFunc(slices.Values(list), comparePages)
}

// after returns what follows last, which may be gone, in a list in the order of pages.
func after(list []*pdu.FilesystemVersion, last *pdu.FilesystemVersion) []*pdu.FilesystemVersion {
	i, found := slices.BinarySearchFunc(list, last, comparePages)
	if found {
		i++
	}
	return list[i:]
}

// pageLength is how many versions of list make a page of at most size: at least one, if
// there are any.
func pageLength(list []*pdu.FilesystemVersion, size uint32) int {
	list = list[:min(len(list), int(min(size, maxPageVersions)))]
	bytes := 0
	for i, v := range list {
		bytes += 1 + protowire.SizeBytes(proto.Size(v)) // 1: the field's tag
		if bytes > maxPage && i > 0 {
			return i
		}
	}
	return len(list)
}

// pageToken tells where a page ends: the last version's place in the order of pages, as
// CreateTXG.Guid.Type.Name.
func pageToken(last *pdu.FilesystemVersion) string {
	return fmt.Sprintf("%d.%d.%d.%s", last.GetCreateTXG(), last.GetGuid(), last.GetType(), last.GetName())
}

// parsePageToken is pageToken the other way; it takes nothing else.
func parsePageToken(token string) (*pdu.FilesystemVersion, error) {
	fields := strings.SplitN(token, ".", 4)
	fields = append(fields, make([]string, 4-len(fields))...)
	txg, errTXG := strconv.ParseUint(fields[0], 10, 64)
	guid, errGUID := strconv.ParseUint(fields[1], 10, 64)
	kind, errKind := strconv.ParseInt(fields[2], 10, 32)
	last := &pdu.FilesystemVersion{CreateTXG: txg, Guid: guid, Type: pdu.FilesystemVersion_VersionType(kind), Name: fields[3]}
	if errors.Join(errTXG, errGUID, errKind) != nil || pageToken(last) != token {
		return nil, fmt.Errorf("%w: page token %.300q is none of this server's", endpoint.ErrInvalid, token)
	}
	return last, nil
}

// keptList is what is left of the list whose page was sent last, so that an endpoint need
// not list a million versions once for each page. It is one list, for keepList at most;
// clients that list at the same time take the place from one another, and have their
// lists made anew.
type keptList struct {
	mu     sync.Mutex
	key    listKey
	rest   []*pdu.FilesystemVersion // nil: nothing is kept
	expiry *time.Timer
}

// listKey says whose list it is, and by which token it goes on.
type listKey struct{ client, route, filesystem, token string }

func newListKey(ctx context.Context, filesystem, token string) listKey {
	client, _ := transport.ClientIdentityFromContext(ctx)
	return listKey{client, RouteFromContext(ctx), filesystem, token}
}

func (k *keptList) put(key listKey, rest []*pdu.FilesystemVersion) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop()
	k.key, k.rest = key, rest
	k.expiry = time.AfterFunc(keepList, func() { k.take(key) })
}

// take returns what was put, once; nil if it was taken, replaced or is too old.
func (k *keptList) take(key listKey) []*pdu.FilesystemVersion {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key != key {
		return nil
	}
	return k.drop()
}

func (k *keptList) drop() (rest []*pdu.FilesystemVersion) {
	if k.expiry != nil {
		k.expiry.Stop()
	}
	rest, k.rest = k.rest, nil
	return rest
}
