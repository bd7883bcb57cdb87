package config

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/tcp"
)

// maxWord is the longest name of a job and the longest prefix of a snapshot, in
// bytes: both become a part of a file's name, of which there are 255.
const maxWord = 100

// word checks a value that becomes a part of names of snapshots and bookmarks.
func (s section) word(key, value string) {
	if !s.sound(key) {
		return
	}
	const allowed = "use letters, digits and _ - . :"
	switch bad := strings.IndexFunc(value, isNotWord); {
	case bad >= 0:
		s.fail(key, fmt.Sprintf("%s contains %q", quote(value), []rune(value[bad:])[0]), allowed)
	case value == "." || value == "..":
		s.fail(key, quote(value)+" is no name", "choose another one")
	case len(value) > maxWord:
		s.fail(key, fmt.Sprintf("has %d bytes", len(value)), fmt.Sprintf("use at most %d", maxWord))
	}
}

func isNotWord(r rune) bool {
	letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	return !letter && !strings.ContainsRune("_-.:", r)
}

// path checks that a path does not depend on the daemon's working directory.
func (s section) path(key, value string) {
	if s.sound(key) && !filepath.IsAbs(value) {
		s.fail(key, quote(value)+" is not an absolute path", "begin it with / (a leading ~ is not expanded)")
	}
}

// address checks HOST:PORT. Only an address to listen on may leave HOST out.
func (s section) address(key, value string) {
	if !s.sound(key) {
		return
	}
	listen := key == "listen"
	hint := `write "HOST:PORT", such as "backup.example.org:8888" or "[fe80::1%eth0]:8888"`
	if listen {
		hint = `write ":PORT" for all addresses, such as ":8888", or "HOST:PORT", such as "[fe80::1%eth0]:8888"`
	}
	if err := checkAddress(value, listen); err != nil {
		s.fail(key, quote(value)+" "+err.Error(), hint)
	}
}

func checkAddress(address string, listen bool) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		var reason *net.AddrError
		errors.As(err, &reason)
		return fmt.Errorf("is not an address: %s", reason.Err)
	}
	number, err := strconv.Atoi(port)
	switch {
	case err != nil || number < 1 || number > 65535:
		return errors.New("has no port from 1 to 65535")
	case host == "" && !listen:
		return errors.New("has no host")
	case strings.ContainsAny(host, " /@"):
		return fmt.Errorf("has no host name but %q", host)
	}
	return nil
}

// identity checks a client identity.
func (s section) identity(key, value string) {
	if !s.sound(key) {
		return
	}
	if err := transport.ValidateClientIdentity(value); err != nil {
		s.fail(key, err.Error(), "it becomes the name of a directory: use letters, digits and _ - .")
	}
}

// clients checks the map from addresses to client identities, as the transport
// does, but each entry by itself so that its line is known.
func (s section) clients(clients map[string]string) {
	if !s.sound("clients") {
		return
	}
	if len(clients) == 0 {
		s.fail("clients", "is empty, so that nobody may connect", "add "+examples["clients"])
	}
	correct := true
	for address, id := range clients {
		key := element("clients", address)
		_, err := tcp.ParseClientMap(map[string]string{address: id})
		if err != nil && s.sound(key) {
			s.fail(key, errors.Unwrap(err).Error(), `write {"192.0.2.7": alice}, or {"192.0.2.0/24": "site-*"} for a network`)
		}
		correct = correct && err == nil
	}
	if _, err := tcp.ParseClientMap(clients); correct && err != nil {
		s.fail("clients", err.Error(), "remove one of them")
	}
}

// route checks the name of a route, which crosses the wire as client identities do.
func (s section) route(name string) {
	if !s.sound("route") {
		return
	}
	if err := transport.ValidateClientIdentity(name); err != nil {
		reason := strings.Replace(err.Error(), "client identity", "route", 1)
		s.fail("route", reason, "use letters, digits and _ - .")
	}
}

// routeClients checks the client identities of a job that shares its listener.
func (s section) routeClients(clients []string) {
	if s.sound("clients") && clients != nil && len(clients) == 0 {
		s.fail("clients", "is empty, so that nobody may connect", "add clients: [NAME], or remove it for all of the listener's")
	}
	for i, client := range clients {
		key := fmt.Sprintf("clients[%d]", i)
		if s.sound(key) && strings.Contains(client, "*") {
			s.fail(key, quote(client)+" is no identity: the * stands for an address", "name each client, such as site-192.0.2.7")
			continue
		}
		s.identity(key, client)
	}
}

// verbsOf are the verbs that mean something for a job, by its type.
var verbsOf = map[string][]string{
	TypeSink:   {VerbList, VerbReceive, VerbDestroy},
	TypeSource: {VerbList, VerbSend, VerbDestroy},
}

// verbs checks what the other side of a job may do.
func (s section) verbs(job Job, verbs []string) {
	known := verbsOf[job.Type]
	switch {
	case !s.sound("verbs"):
	case job.Active():
		s.fail("verbs", "nobody calls a "+job.Type+" job", "remove it (it is for type sink or source)")
	case job.Passive() && len(verbs) == 0:
		s.fail("verbs", "is empty, so that nobody may do anything", "add verbs: ["+strings.Join(known, ", ")+"], or some of them")
	case job.Passive():
		for i, verb := range verbs {
			if key := fmt.Sprintf("verbs[%d]", i); s.sound(key) && !slices.Contains(known, verb) {
				s.fail(key, quote(verb)+" is no verb of a "+job.Type+" job", suggest(verb, known))
			}
		}
	}
}

// ParseCron reads the five fields of a cron table (minute, hour, day of the month, month,
// day of the week), or six with seconds before them. Times are those of the machine's
// time zone, unless the fields follow CRON_TZ=ZONE.
func ParseCron(text string) (cron.Schedule, error) {
	if zone, _, fields := strings.Cut(text, " "); strings.Contains(zone, "=") && !fields {
		return nil, errors.New("has no fields behind " + quote(zone)) // on which the parser panics
	}
	fields := cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow
	return cron.NewParser(fields).Parse(text)
}

// cron checks times of snapshots.
func (s section) cron(text string) {
	if !s.sound("cron") {
		return
	}
	const hint = `write minute, hour, day of the month, month and day of the week, such as "0 3 * * *" for three o'clock at night`
	switch schedule, err := ParseCron(text); {
	case err != nil:
		s.fail("cron", quote(text)+" is no time: "+brief(err), hint)
	case schedule.Next(time.Now()).IsZero():
		s.fail("cron", quote(text)+" never comes", hint)
	}
}
