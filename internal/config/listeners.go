package config

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// checkListeners checks what is listened on, who shares it, and who meets whom in it.
func (d *decoder) checkListeners(cfg *Config) {
	names := map[string]string{}
	for i, job := range cfg.Jobs {
		owns := job.Serve != nil && job.Serve.Type != ServeShared // a listener
		if owns || job.Passive() && job.Connect != nil {          // its clients are counted under its name
			names[job.Name] = fmt.Sprintf("jobs[%d]", i)
		}
	}
	for i, l := range cfg.Listeners {
		d.unique(names, fmt.Sprintf("listeners[%d]", i), "name", l.Name, "give each listener a name of its own")
	}
	d.checkAddresses(cfg)
	d.checkShares(cfg)
	locals := d.locals(cfg)
	for i, job := range cfg.Jobs {
		if job.Active() && job.Serve != nil {
			d.onePeer(i, cfg.Jobs)
		}
		if job.Connect != nil {
			d.local(i, cfg, locals)
		}
	}
}

// A bound is an address that something listens on.
type bound struct {
	owner   string // such as jobs[1].serve
	address string
	host    string
}

// bounds are all addresses that are sound, in the order of what has them.
func (d *decoder) bounds(cfg *Config) []bound {
	var all []bound
	add := func(owner, address string) {
		if (section{decoder: d, field: owner}).sound("listen") {
			host, _, _ := net.SplitHostPort(address) // was checked
			all = append(all, bound{owner, address, host})
		}
	}
	for i, l := range cfg.Listeners {
		if l.Serve != nil {
			add(fmt.Sprintf("listeners[%d].serve", i), l.Serve.Listen)
		}
	}
	for i, job := range cfg.Jobs {
		if job.Serve != nil {
			add(fmt.Sprintf("jobs[%d].serve", i), job.Serve.Listen)
		}
	}
	for i, m := range cfg.Global.Monitoring {
		add(fmt.Sprintf("global.monitoring[%d]", i), m.Listen)
	}
	return all
}

// checkAddresses checks that no two listen on the same address.
func (d *decoder) checkAddresses(cfg *Config) {
	byPort := map[int][]bound{}
	for _, b := range d.bounds(cfg) {
		_, text, _ := net.SplitHostPort(b.address) // was checked, as was
		port, _ := strconv.Atoi(text)              // the port
		if i := slices.IndexFunc(byPort[port], b.overlaps); i >= 0 {
			hint := "give each a port of its own, or let jobs share one of the listeners"
			d.fail(join(b.owner, "listen"), b.taken(byPort[port][i]), hint)
			continue
		}
		byPort[port] = append(byPort[port], b)
	}
}

// overlaps reports whether one of two on the same port would keep the other from
// starting. The system lets nobody listen beside one on all addresses, of whichever
// family. Names are not looked up.
func (b bound) overlaps(other bound) bool {
	ip, err := netip.ParseAddr(b.host)
	otherIP, otherErr := netip.ParseAddr(other.host)
	if err != nil || otherErr != nil {
		return b.host == other.host || isWildcard(b.host, ip) || isWildcard(other.host, otherIP)
	}
	return ip.Unmap() == otherIP.Unmap() || ip.IsUnspecified() || otherIP.IsUnspecified()
}

// isWildcard reports whether a host, which is ip if it is an IP address, stands for
// all addresses.
func isWildcard(host string, ip netip.Addr) bool { return host == "" || ip.IsUnspecified() }

func (b bound) taken(by bound) string {
	text := fmt.Sprintf("%s is taken by %s", quote(b.address), strings.TrimSuffix(by.owner, ".serve"))
	if by.address != b.address {
		text += ", which listens on " + quote(by.address)
	}
	return text
}

// checkShares checks the jobs that share listeners, and that there is one for each listener.
func (d *decoder) checkShares(cfg *Config) {
	shares := make([]share, len(cfg.Listeners))
	for i, job := range cfg.Jobs {
		s := d.jobAt(i)
		if job.Serve == nil || job.Serve.Type != ServeShared || !s.sound("serve.listener") {
			continue
		}
		l := slices.IndexFunc(cfg.Listeners, func(l Listener) bool { return l.Name == job.Serve.Listener })
		if l < 0 {
			s.fail("serve.listener", "no listener is called "+quote(job.Serve.Listener), suggestListener(cfg.Listeners, job.Serve.Listener))
			continue
		}
		shares[l].add(s, job)
		d.checkAdmitted(s, job.Serve.RouteClients, cfg.Listeners[l].Serve, cfg.Jobs)
	}
	for i, l := range cfg.Listeners {
		s := section{decoder: d, field: fmt.Sprintf("listeners[%d]", i)}
		if s.sound("name") && len(shares[i].routes) == 0 {
			s.fail("name", "no job uses "+quote(l.Name), "give a job serve: {type: shared, listener: "+clip(l.Name)+"}, or remove it")
		}
	}
}

func suggestListener(listeners []Listener, name string) string {
	var names []string
	for _, l := range listeners {
		names = append(names, l.Name)
	}
	if len(names) == 0 {
		return "add listeners: [{name: " + clip(name) + ", serve: {...}}] at the top of the file"
	}
	return suggest(name, names)
}

// A share is who shares one listener.
type share struct {
	routes    map[string]string // which job has it
	byDefault string            // job for clients that name no route
}

// add checks that a job gets along with those that share the listener already.
func (sh *share) add(s section, job Job) {
	route, key := job.routeName(), "serve.route"
	if !s.given(key) {
		key = "name"
	}
	if sh.routes == nil {
		sh.routes = map[string]string{}
	}
	if first, again := sh.routes[route]; again {
		s.fail(key, fmt.Sprintf("the route %s of listener %s is %s's", quote(route), quote(job.Serve.Listener), first), "give each job a route of its own")
	} else {
		sh.routes[route] = s.field
	}
	switch {
	case !job.Serve.Default:
	case sh.byDefault != "":
		s.fail("serve.default", fmt.Sprintf("%s is the default of listener %s", sh.byDefault, quote(job.Serve.Listener)), "remove it from one of them")
	default:
		sh.byDefault = s.field
	}
}

// routeName is the route of a job that shares its listener.
func (j Job) routeName() string { return cmp.Or(j.Serve.Route, j.Name) }

// checkAdmitted checks that a listener lets the clients of one of its jobs in.
func (d *decoder) checkAdmitted(s section, clients []string, listener *Serve, jobs []Job) {
	if listener == nil {
		return // reported
	}
	admitted := clientsOf(listener, jobs)
	for i, client := range clients {
		key := fmt.Sprintf("serve.clients[%d]", i)
		fits := func(identity string) bool { return matches(identity, client) }
		if s.sound(key) && len(admitted) > 0 && !slices.ContainsFunc(admitted, fits) {
			s.fail(key, "the listener does not let "+quote(client)+" in", suggest(client, admitted))
		}
	}
}

// matches reports whether a client may have the identity, in which * stands for addresses.
func matches(identity, client string) bool {
	before, rest, wild := strings.Cut(identity, "*")
	after := rest[strings.LastIndexByte(rest, '*')+1:]
	if !wild {
		return identity == client
	}
	return len(client) > len(before)+len(after) && strings.HasPrefix(client, before) && strings.HasSuffix(client, after)
}

// clientsOf are the client identities that may connect, sorted.
func clientsOf(c *Serve, jobs []Job) []string {
	var all []string
	switch c.Type {
	case TransportTCP:
		all = slices.Collect(maps.Values(c.Clients))
	case TransportTLS:
		all = slices.Clone(c.ClientCNs)
	case ServeShared:
		all = slices.Clone(c.RouteClients)
	case TransportLocal:
		for _, job := range jobs {
			if job.Connect != nil && job.Connect.Type == TransportLocal && job.Connect.ListenerName == c.ListenerName {
				all = append(all, job.Connect.ClientIdentity)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// peer is the one client of an active job that is connected to, "" for any other job.
func peer(j Job, jobs []Job) string {
	if !j.Active() || j.Serve == nil {
		return ""
	}
	return strings.Join(clientsOf(j.Serve, jobs), "") // of a good job: one
}

// clientKeys say where the clients of a serve stand, by its type.
var clientKeys = map[string]string{
	TransportTCP: "clients", TransportTLS: "client_cns", ServeShared: "clients", TransportLocal: "listener_name",
}

// onePeer checks that jobs[i], an active one that is connected to, has one peer.
func (d *decoder) onePeer(i int, jobs []Job) {
	job, s := jobs[i], section{decoder: d, field: fmt.Sprintf("jobs[%d].serve", i)}
	key, ok := clientKeys[job.Serve.Type]
	if !ok || !s.sound(key) {
		return
	}
	clients := clientsOf(job.Serve, jobs)
	switch {
	case len(clients) == 0: // in the daemon: elsewhere it is reported
		s.fail(key, "no job connects to "+quote(job.Serve.ListenerName), "add a "+opposite[job.Type]+" job with connect: {type: local, ...}")
	case len(clients) > 1 || strings.Contains(clients[0], "*"):
		s.fail(key, fmt.Sprintf("a %s job cannot have the clients %s", job.Type, enumerate(clients)),
			"name one: a job has one replication cursor, so that it replicates with one peer")
	}
}

// opposite is the type of the peer of a job.
var opposite = map[string]string{TypePush: TypeSink, TypePull: TypeSource, TypeSink: TypePush, TypeSource: TypePull}

// locals are the owners of listeners within the daemon, such as jobs[1], by their name.
func (d *decoder) locals(cfg *Config) map[string]string {
	names := map[string]string{}
	for i, l := range cfg.Listeners {
		if l.Serve != nil {
			d.unique(names, fmt.Sprintf("listeners[%d]", i), "serve.listener_name", l.Serve.ListenerName, "give each listener a listener_name of its own")
		}
	}
	for i, job := range cfg.Jobs {
		if job.Serve != nil {
			d.unique(names, fmt.Sprintf("jobs[%d]", i), "serve.listener_name", job.Serve.ListenerName, "give each passive job a listener_name of its own")
		}
	}
	return names
}

// local checks that jobs[i], if it connects within the daemon, meets a job of the opposite
// kind there.
func (d *decoder) local(i int, cfg *Config, locals map[string]string) {
	job, s := cfg.Jobs[i], section{decoder: d, field: fmt.Sprintf("jobs[%d].connect", i)}
	if !s.sound("listener_name") {
		return
	}
	name := job.Connect.ListenerName
	owner, ok := locals[name]
	if !ok {
		s.fail("listener_name", "no job serves "+quote(name), suggestLocal(name, opposite[job.Type], locals))
		return
	}
	met := s.meet(job.Connect, owner, cfg)
	switch wanted := opposite[job.Type]; {
	case met == nil || wanted == "":
	case met.Type == wanted:
		d.checkLoop(i, job, *met)
	default:
		s.fail("listener_name", fmt.Sprintf("%s is a %s job's", quote(name), met.Type), "a "+job.Type+" job needs a "+wanted+" job")
	}
}

// meet is the job that a client within the daemon gets to by way of a listener; nil if
// there is none, which is reported.
func (s section) meet(c *Connect, owner string, cfg *Config) *Job {
	var routes []string
	for i := range cfg.Jobs {
		job := &cfg.Jobs[i]
		switch own, shared := fmt.Sprintf("jobs[%d]", i) == owner, job.shares(owner, cfg.Listeners); {
		case own && c.Route == "", shared && c.Route == "" && job.Serve.Default, shared && c.Route == job.routeName():
			return job
		case shared:
			routes = append(routes, job.routeName())
		}
	}
	switch {
	case len(routes) > 0 && c.Route == "":
		s.fail("listener_name", quote(c.ListenerName)+" is shared, and none of its jobs is the default", "add route: "+enumerate(routes))
	case len(routes) > 0 && s.sound("route"):
		s.fail("route", "no job serves "+quote(c.Route)+" on "+quote(c.ListenerName), suggest(c.Route, routes))
	case s.sound("route"):
		s.fail("route", quote(c.ListenerName)+" has no routes: it is "+owner+"'s alone", "remove it")
	}
	return nil
}

// shares reports whether the job shares the listener that is the owner.
func (j *Job) shares(owner string, listeners []Listener) bool {
	if j.Serve == nil || j.Serve.Type != ServeShared {
		return false
	}
	i := slices.IndexFunc(listeners, func(l Listener) bool { return l.Name == j.Serve.Listener })
	return owner == fmt.Sprintf("listeners[%d]", i)
}

func suggestLocal(name, wanted string, locals map[string]string) string {
	if len(locals) == 0 {
		return "add a " + cmp.Or(wanted, "passive") + " job with serve: {type: local, listener_name: " + clip(name) + "}"
	}
	return suggest(name, slices.Sorted(maps.Keys(locals)))
}
