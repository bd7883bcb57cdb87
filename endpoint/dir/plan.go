package dir

// Extent is a range of a file of the new version. Either its bytes are in the
// stream, or they are copied from the file of the same path in the old version.
type Extent struct {
	Off, Len int64 // bytes
	Literal  bool
	FromOff  int64 // where the bytes lie in the old file, unless Literal
}

// FilePlan says where the content of one file of the new version comes from: from
// a file that has the same content, or, without one, from Extents, which then are
// all its data.
type FilePlan struct {
	Entry    int // index into the new manifest's Entries
	FromFile int // index of an entry of the old manifest with the same content, or -1
	ToFile   int // index of an earlier entry of the new manifest with the same content, or -1
	Extents  []Extent
	Literal  int64 // bytes of the extents that are literal
}

// Plan is what a step transfers: a pure function of its two manifests, so that
// sender and receiver need not tell each other.
type Plan struct {
	Files   []FilePlan // one for each file entry that has data, in the order of entries
	Literal int64      // bytes of all literals: the stream's body behind the delta
}

// NewPlan computes the plan of the step from one version to another; from is nil
// for a full step. Neither is changed; both are valid.
func NewPlan(from, to *Manifest) *Plan {
	if from == nil {
		from = &Manifest{}
	}
	p := planner{from: from, to: to, seen: map[Digest]int{}}
	plan := &Plan{}
	for i := range to.Entries {
		if e := &to.Entries[i]; e.Type == TypeFile && e.dataSize() > 0 {
			f := p.file(i, e)
			plan.Files = append(plan.Files, f)
			plan.Literal += f.Literal
		}
	}
	return plan
}

// planner is the state of one NewPlan.
type planner struct {
	from, to *Manifest
	next     int            // index into from.Entries: the first not before the current path
	known    map[Digest]int // content of from; made when first needed
	seen     map[Digest]int // content of to that is not in from
}

func (p *planner) file(i int, e *Entry) FilePlan {
	f := FilePlan{Entry: i, FromFile: -1, ToFile: -1}
	same := p.samePath(e.Path)
	if same >= 0 && p.from.Entries[same].Hash == e.Hash {
		f.FromFile = same
		return f
	}
	if j, ok := p.fromContent(e.Hash); ok {
		f.FromFile = j
		return f
	}
	if j, ok := p.seen[e.Hash]; ok {
		f.ToFile = j
		return f
	}
	p.seen[e.Hash] = i
	f.Extents = e.dataExtents()
	if same >= 0 && len(e.Chunks) > 0 && len(p.from.Entries[same].Chunks) > 0 {
		f.Extents = chunkExtents(&p.from.Entries[same], e)
	}
	for _, x := range f.Extents {
		if x.Literal {
			f.Literal += x.Len
		}
	}
	return f
}

// samePath returns the index of the file at path in from, or -1. Calls are in
// ascending order of path.
func (p *planner) samePath(path string) int {
	for p.next < len(p.from.Entries) {
		e := &p.from.Entries[p.next]
		if c := ComparePaths(e.Path, path); c == 0 && e.Type == TypeFile {
			return p.next
		} else if c >= 0 {
			return -1
		}
		p.next++
	}
	return -1
}

// fromContent finds the first file of from that has this content.
func (p *planner) fromContent(hash Digest) (int, bool) {
	if p.known == nil {
		p.known = make(map[Digest]int)
		for i := range p.from.Entries {
			e := &p.from.Entries[i]
			if _, ok := p.known[e.Hash]; !ok && e.Type == TypeFile {
				p.known[e.Hash] = i
			}
		}
	}
	i, ok := p.known[hash]
	return i, ok
}

// chunkExtents plans a file that changed in part: chunks that the old file has are
// copied, the rest is literal.
func chunkExtents(from, to *Entry) []Extent {
	old := newChunkIndex(from)
	var extents []Extent
	chunks := to.Chunks
	for _, data := range to.dataExtents() {
		for off := data.Off; off < data.Off+data.Len; {
			x := old.extent(chunks[0], off)
			chunks = chunks[1:]
			off += x.Len
			extents = appendExtent(extents, x)
		}
	}
	return extents
}

// appendExtent adds an extent, to the last one if it continues that.
func appendExtent(extents []Extent, x Extent) []Extent {
	if len(extents) > 0 {
		last := &extents[len(extents)-1]
		follows := last.Literal || last.FromOff+last.Len == x.FromOff
		if last.Literal == x.Literal && last.Off+last.Len == x.Off && follows {
			last.Len += x.Len
			return extents
		}
	}
	return append(extents, x)
}

// chunkIndex finds the chunks of one file.
type chunkIndex struct {
	first map[Chunk]int // index of the first such chunk
	chunk []Chunk
	off   []int64 // of each chunk in the file
	next  int     // the chunk behind the last one found: likely the next one wanted
}

func newChunkIndex(e *Entry) *chunkIndex {
	c := &chunkIndex{first: make(map[Chunk]int, len(e.Chunks)), chunk: e.Chunks}
	for _, data := range e.dataExtents() {
		for off := data.Off; off < data.Off+data.Len; {
			i := len(c.off)
			if _, ok := c.first[e.Chunks[i]]; !ok {
				c.first[e.Chunks[i]] = i
			}
			c.off = append(c.off, off)
			off += int64(e.Chunks[i].Len)
		}
	}
	return c
}

// extent says where the bytes of a chunk, at off in the new file, come from.
func (c *chunkIndex) extent(chunk Chunk, off int64) Extent {
	x := Extent{Off: off, Len: int64(chunk.Len)}
	i, ok := c.next, c.next < len(c.chunk) && c.chunk[c.next] == chunk
	if !ok {
		i, ok = c.first[chunk]
	}
	if !ok {
		x.Literal = true
		return x
	}
	x.FromOff = c.off[i]
	c.next = i + 1
	return x
}
