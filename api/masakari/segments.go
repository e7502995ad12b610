package masakari

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"mainstay/fleet"
)

// The site itself is a segment, which has every compute that is in no other. Others are names
// that somebody gave by this API: they steer nothing, for where a server may go is told by the
// availability zone of its host.

// own is the UUID of the site's own segment.
func own(spec fleet.Spec) string { return named("segment", spec.Site) }

// isCompute says whether the site's file has a compute of that name.
func isCompute(spec fleet.Spec, host string) bool {
	h, known := spec.Host(host)
	return known && h.HasRole("compute")
}

// grouped returns what is kept with the site's own segment in it, and each compute of the
// site's file in exactly one.
func grouped(spec fleet.Spec, kept fleet.Masakari) map[string]fleet.Segment {
	out := map[string]fleet.Segment{}
	taken := map[string]bool{}
	mine, known := kept.Segments[own(spec)]
	if !known {
		mine = fleet.Segment{Method: "auto", Service: "COMPUTE", Description: "the computes of the site's file that are in no other segment"}
	}
	for _, id := range fleet.Sorted(kept.Segments) {
		if id == own(spec) {
			continue
		}
		out[id] = kept.Segments[id]
		for host := range kept.Segments[id].Hosts {
			taken[host] = true
		}
	}
	labels := mine.Hosts
	mine.UUID, mine.Name, mine.Hosts = own(spec), spec.Site, map[string]fleet.SegmentHost{}
	for _, h := range spec.Hosts {
		if !h.HasRole("compute") || taken[h.Name] {
			continue
		}
		label, said := labels[h.Name]
		if !said {
			label = fleet.SegmentHost{Type: "COMPUTE", Control: devices(h)}
		}
		mine.Hosts[h.Name] = label
	}
	out[mine.UUID] = mine
	return out
}

// devices names the sorts of a host's power switches.
func devices(h fleet.Host) string {
	var names []string
	for _, level := range h.Fence {
		names = append(names, level.Name())
	}
	return strings.Join(names, ", ")
}

func (s *server) segments(ctx context.Context) (map[string]fleet.Segment, error) {
	kept, err := s.Kept(ctx)
	return grouped(s.Spec(), kept), err
}

// segment finds the one of the request's path.
func (s *server) segment(r *request) (fleet.Segment, error) {
	all, err := s.segments(r.Context())
	if err != nil {
		return fleet.Segment{}, err
	}
	g, known := all[r.PathValue("segment")]
	if !known {
		return g, noSegment(r)
	}
	return g, nil
}

func noSegment(r *request) error {
	return refuse(404, "No failover segment with id %s.", r.PathValue("segment"))
}

func (s *server) showsSegment(g fleet.Segment) object {
	o := row(g.UUID, g.Created, g.Updated)
	var description any
	if g.Description != "" {
		description = g.Description
	}
	maps.Copy(o, object{"uuid": g.UUID, "name": g.Name, "description": description, "recovery_method": g.Method, "service_type": g.Service, "enabled": s.Spec().Mode == "act"})
	return o
}

func (s *server) listSegments(r *request) (any, error) {
	all, err := s.segments(r.Context())
	if err != nil {
		return nil, err
	}
	var list []object
	for _, id := range fleet.Sorted(all) {
		list = append(list, s.showsSegment(all[id]))
	}
	list = r.without(list, "recovery_method", "service_type")
	if list, err = r.withTruth(list, "enabled"); err != nil {
		return nil, err
	}
	list, err = r.page(list, "uuid", append(stamps, "uuid", "name", "description", "recovery_method", "service_type")...)
	return object{"segments": list}, err
}

func (s *server) showSegment(r *request) (any, error) {
	g, err := s.segment(r)
	return object{"segment": s.showsSegment(g)}, err
}

// readSegment reads a segment's body over what g is already.
func (s *server) readSegment(r *request, g fleet.Segment, all bool) (fleet.Segment, error) {
	keys := []string{"name", "description", "recovery_method", "service_type"}
	if r.minor >= 2 {
		keys = append(keys, "enabled")
	}
	o, err := r.read("segment", keys...)
	if err != nil {
		return g, err
	}
	if !all && len(o) == 0 {
		return g, refuse(400, "Invalid input for field/attribute segment. It must have one of %s.", strings.Join(keys, ", "))
	}
	if _, said := o["name"]; said || all {
		if g.Name, err = name(o, "name"); err != nil {
			return g, err
		}
	}
	if _, said := o["service_type"]; said || all {
		if g.Service, err = name(o, "service_type"); err != nil {
			return g, err
		}
	}
	if _, said := o["description"]; said {
		if g.Description, _, err = text(o, "description", 0); err != nil {
			return g, err
		}
	}
	if _, said := o["recovery_method"]; said || all {
		if g.Method, err = name(o, "recovery_method"); err != nil {
			return g, err
		}
		switch g.Method {
		case "auto", "auto_priority", "rh_priority": // all of these: a reserve is taken where no other compute has room
		case "reserved_host":
			if len(s.Spec().OpenStack.Reserved) == 0 {
				return g, refuse(409, "recovery_method reserved_host contradicts the site's file, which reserves no hosts (openstack/reserved): servers go to whichever compute of their zone has room, which is auto.")
			}
		default:
			return g, refuse(400, "Invalid input for field/attribute recovery_method. Value: %s. It is none of auto, reserved_host, auto_priority, rh_priority.", g.Method)
		}
	}
	enabled, said, err := truth(o, "enabled")
	if err != nil {
		return g, err
	}
	acts := s.Spec().Mode == "act"
	switch {
	case !said || enabled == acts:
	case acts:
		return g, refuse(409, "enabled: false contradicts the site's file, whose mode is act: its computes are recovered whatever segment has them. on_maintenance of a host, mainstay disarm or mode: shadow keep Mainstay from it.")
	case !all: // a segment that is made while the site is still in shadow mode becomes enabled with it
		return g, refuse(409, "enabled: true contradicts the site's file, whose mode is shadow: nothing is carried out before it says mode: act (mainstay apply).")
	}
	return g, nil
}

// nameTaken says whether another segment has a name.
func nameTaken(all map[string]fleet.Segment, uuid, name string) (fleet.Segment, bool) {
	for _, id := range fleet.Sorted(all) {
		if all[id].Name == name && id != uuid {
			return all[id], true
		}
	}
	return fleet.Segment{}, false
}

func (s *server) createSegment(r *request) (any, error) {
	g, err := s.readSegment(r, fleet.Segment{UUID: fresh(), Created: s.now()}, true)
	if err != nil {
		return nil, err
	}
	var made bool
	err = s.Keep(r.Context(), func(kept *fleet.Masakari) error {
		made = false
		if there, taken := nameTaken(grouped(s.Spec(), *kept), g.UUID, g.Name); taken {
			if there.UUID != own(s.Spec()) && (there.Method != g.Method || there.Service != g.Service || g.Description != "" && g.Description != there.Description) {
				return refuse(409, "Failover segment with name %s already exists.", g.Name)
			}
			g = there // it was made before, and as it is asked for now
			return nil
		}
		made = true
		kept.Segments = with(kept.Segments, g.UUID, g)
		return nil
	})
	if err == nil && made {
		err = s.Tell(r.Context(), r.by, "site", "makes segment "+g.Name+", which steers nothing")
	}
	return object{"segment": s.showsSegment(g)}, err
}

func (s *server) updateSegment(r *request) (any, error) {
	before, err := s.segment(r)
	if err != nil {
		return nil, err
	}
	next, err := s.readSegment(r, before, false)
	if err != nil {
		return nil, err
	}
	if next.UUID == own(s.Spec()) && next.Name != s.Spec().Site {
		return nil, refuse(409, "%s is the site itself, whose name stands in the site's file; make a segment of the other name, and its hosts in it.", before.Name)
	}
	next.Updated = s.now()
	err = s.Keep(r.Context(), func(kept *fleet.Masakari) error {
		all := grouped(s.Spec(), *kept)
		there, known := all[next.UUID]
		if !known {
			return noSegment(r)
		}
		if _, taken := nameTaken(all, next.UUID, next.Name); taken {
			return refuse(409, "Failover segment with name %s already exists.", next.Name)
		}
		next.Hosts = there.Hosts
		kept.Segments = with(kept.Segments, next.UUID, next)
		return nil
	})
	return object{"segment": s.showsSegment(next)}, err
}

func (s *server) deleteSegment(r *request) (any, error) {
	var gone fleet.Segment
	err := s.Keep(r.Context(), func(kept *fleet.Masakari) error {
		var known bool
		if gone, known = grouped(s.Spec(), *kept)[r.PathValue("segment")]; !known {
			return noSegment(r)
		}
		if gone.UUID == own(s.Spec()) {
			return refuse(409, "%s is the site itself: its computes stand in the site's file (mainstay apply), and are recovered.", gone.Name)
		}
		for _, host := range fleet.Sorted(gone.Hosts) {
			if isCompute(s.Spec(), host) {
				return refuse(409, "Failover segment %s can't be deleted: %s in it is a compute of the site's file, and recovered. Put it into another segment first (openstack segment host create), or take it out of the file (mainstay apply).", gone.Name, host)
			}
		}
		kept.Segments = maps.Clone(kept.Segments)
		delete(kept.Segments, gone.UUID)
		return nil
	})
	if err == nil {
		err = s.Tell(r.Context(), r.by, "site", "deletes segment "+gone.Name+", which steered nothing")
	}
	return nil, err
}

// with is m with one more.
func with[V any](m map[string]V, key string, v V) map[string]V {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]V{}
	}
	m[key] = v
	return m
}

// hostUUID names a host of the site, whichever segment it is in.
func hostUUID(spec fleet.Spec, host string) string { return named("host", spec.Site, host) }

func (s *server) showsHost(g fleet.Segment, host string) object {
	spec, label := s.Spec(), g.Hosts[host]
	_, maintenance := s.State().Wishes["maintenance-"+host]
	o := row(hostUUID(spec, host), label.Created, label.Updated)
	maps.Copy(o, object{
		"uuid": hostUUID(spec, host), "name": host, "type": label.Type, "control_attributes": label.Control, "reserved": slices.Contains(spec.OpenStack.Reserved, host), "on_maintenance": maintenance,
		"failover_segment_id": g.UUID, "failover_segment": s.showsSegment(g),
	})
	return o
}

func (s *server) listHosts(r *request) (any, error) {
	g, err := s.segment(r)
	if err != nil {
		return nil, err
	}
	var list []object
	for _, host := range fleet.Sorted(g.Hosts) {
		list = append(list, s.showsHost(g, host))
	}
	list = r.without(list, "name", "type", "control_attributes")
	for _, key := range []string{"on_maintenance", "reserved"} {
		if list, err = r.withTruth(list, key); err != nil {
			return nil, err
		}
	}
	list, err = r.page(list, "uuid", append(stamps, "uuid", "name", "type", "control_attributes", "on_maintenance", "reserved")...)
	return object{"hosts": list}, err
}

// host finds the one of the request's path in its segment.
func (s *server) host(r *request, g fleet.Segment) (string, error) {
	for _, host := range fleet.Sorted(g.Hosts) {
		if hostUUID(s.Spec(), host) == r.PathValue("host") {
			return host, nil
		}
	}
	return "", refuse(404, "No host with id %s.", r.PathValue("host"))
}

func (s *server) showHost(r *request) (any, error) {
	g, err := s.segment(r)
	if err != nil {
		return nil, err
	}
	host, err := s.host(r, g)
	return object{"host": s.showsHost(g, host)}, err
}

// hostBody is what a request says of a host.
type hostBody struct {
	name            string
	label           fleet.SegmentHost
	typed, attrs    bool // its label has that
	reserves        bool // reserved is said,
	reserved        bool // and true
	asked, maintain bool // on_maintenance is said, and true
}

func (s *server) readHost(r *request, all bool) (b hostBody, err error) {
	keys := []string{"name", "type", "control_attributes", "reserved", "on_maintenance"}
	o, err := r.read("host", keys...)
	if err != nil {
		return b, err
	}
	if !all && len(o) == 0 {
		return b, refuse(400, "Invalid input for field/attribute host. It must have one of %s.", strings.Join(keys, ", "))
	}
	if _, said := o["name"]; said || all {
		if b.name, err = name(o, "name"); err != nil {
			return b, err
		}
		if !isCompute(s.Spec(), b.name) {
			return b, refuse(400, "Compute service with name %s could not be found: the site's file has no compute of that name, and only that file says what is watched (mainstay apply).", b.name)
		}
	}
	for _, key := range []string{"type", "control_attributes"} {
		if _, said := o[key]; all && !said {
			return b, refuse(400, "Invalid input for field/attribute host. '%s' is a required property", key)
		}
	}
	if b.label.Type, b.typed, err = text(o, "type", 255); err != nil {
		return b, err
	}
	if b.label.Control, b.attrs, err = text(o, "control_attributes", 0); err != nil {
		return b, err
	}
	if b.reserved, b.reserves, err = truth(o, "reserved"); err != nil {
		return b, err
	}
	b.maintain, b.asked, err = truth(o, "on_maintenance")
	return b, err
}

// reserve refuses what contradicts the site's file: there stands which computes are kept empty.
func (s *server) reserve(host string, b hostBody) error {
	if b.reserves && b.reserved != slices.Contains(s.Spec().OpenStack.Reserved, host) {
		return refuse(409, "reserved: %v contradicts the site's file: which computes are kept in reserve stands there (openstack/reserved; mainstay apply).", b.reserved)
	}
	return nil
}

// maintain brings a host into maintenance, or ends that, by the way of every other wish for it.
func (s *server) maintain(r *request, host string, on bool) error {
	id := "maintenance-" + host
	switch _, already := s.State().Wishes[id]; {
	case on == already:
		return nil
	case on:
		return s.Wish(r.Context(), fleet.Wish{Verb: "maintenance", Host: host, Why: "on_maintenance", By: r.by, At: s.now()})
	}
	return s.Unwish(r.Context(), id, r.by)
}

func (s *server) createHost(r *request) (any, error) {
	if _, err := s.segment(r); err != nil {
		return nil, err
	}
	b, err := s.readHost(r, true)
	if err != nil {
		return nil, err
	}
	if err := s.reserve(b.name, b); err != nil {
		return nil, err
	}
	var g fleet.Segment
	err = s.Keep(r.Context(), func(kept *fleet.Masakari) error {
		var known bool
		if g, known = grouped(s.Spec(), *kept)[r.PathValue("segment")]; !known {
			return noSegment(r)
		}
		label := b.label
		label.Created = s.now()
		if there, known := g.Hosts[b.name]; known && !there.Created.IsZero() {
			if there.Type != label.Type || there.Control != label.Control {
				return refuse(409, "Host with name %s already exists.", b.name)
			}
			label = there // put there before, and with the same words
		}
		for _, id := range fleet.Sorted(kept.Segments) { // a host is in one segment only
			if other := kept.Segments[id]; id != g.UUID && !other.Hosts[b.name].Created.IsZero() {
				other.Hosts = maps.Clone(other.Hosts)
				delete(other.Hosts, b.name)
				kept.Segments = with(kept.Segments, id, other)
			}
		}
		g.Hosts = with(g.Hosts, b.name, label)
		kept.Segments = with(kept.Segments, g.UUID, g)
		return nil
	})
	if err == nil && b.maintain {
		err = s.maintain(r, b.name, true)
	}
	return object{"host": s.showsHost(g, b.name)}, err
}

func (s *server) updateHost(r *request) (any, error) {
	g, err := s.segment(r)
	if err != nil {
		return nil, err
	}
	host, err := s.host(r, g)
	if err != nil {
		return nil, err
	}
	b, err := s.readHost(r, false)
	if err != nil {
		return nil, err
	}
	if err := s.reserve(host, b); err != nil {
		return nil, err
	}
	if b.name != "" && b.name != host {
		return nil, refuse(409, "%s can't become %s: hosts have their names in the site's file (mainstay apply).", host, b.name)
	}
	err = s.Keep(r.Context(), func(kept *fleet.Masakari) error {
		var known bool
		if g, known = grouped(s.Spec(), *kept)[g.UUID]; !known {
			return noSegment(r)
		}
		label, known := g.Hosts[host]
		if !known {
			return refuse(404, "No host with id %s.", r.PathValue("host"))
		}
		if b.typed {
			label.Type = b.label.Type
		}
		if b.attrs {
			label.Control = b.label.Control
		}
		label.Updated = s.now()
		if label.Created.IsZero() {
			label.Created = label.Updated
		}
		g.Hosts = with(g.Hosts, host, label)
		kept.Segments = with(kept.Segments, g.UUID, g)
		return nil
	})
	if err == nil && b.asked {
		err = s.maintain(r, host, b.maintain)
	}
	return object{"host": s.showsHost(g, host)}, err
}

func (s *server) deleteHost(r *request) (any, error) {
	err := s.Keep(r.Context(), func(kept *fleet.Masakari) error {
		g, known := grouped(s.Spec(), *kept)[r.PathValue("segment")]
		if !known {
			return noSegment(r)
		}
		host, err := s.host(r, g)
		if err != nil {
			return err
		}
		if isCompute(s.Spec(), host) {
			return refuse(http.StatusConflict, "Host %s can't be deleted: it is a compute of the site's file, and recovered whatever segment has it. on_maintenance: true keeps Mainstay from it; mainstay apply of a file without it takes it out.", host)
		}
		g.Hosts = maps.Clone(g.Hosts)
		delete(g.Hosts, host)
		kept.Segments = with(kept.Segments, g.UUID, g)
		return nil
	})
	return nil, err
}
