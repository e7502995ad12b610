package masakari

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// twice is within what time the same words of the same host are the same notification:
// Masakari's duplicate_notification_detection_interval.
const twice = 180 * time.Second

var (
	hostname   = regexp.MustCompile(`^[a-zA-Z0-9-._]{1,255}$`)
	payloadKey = regexp.MustCompile(`^[a-zA-Z0-9-_:. ]{1,255}$`)
	uuidLike   = regexp.MustCompile(`^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$`)
)

// payloads are the keys that the payload of each type may have, and those that it must.
var payloads = map[string]struct{ may, must []string }{
	fleet.NoticeHost:    {[]string{"event", "host_status", "cluster_status"}, []string{"event"}},
	fleet.NoticeServer:  {[]string{"event", "instance_uuid", "vir_domain_event"}, []string{"event", "instance_uuid", "vir_domain_event"}},
	fleet.NoticeProcess: {[]string{"event", "process_name"}, []string{"event", "process_name"}},
}

// words are what the values of some keys must be one of.
var words = map[string][]string{"event": {"STARTED", "STOPPED"}, "host_status": {"NORMAL", "UNKNOWN"}, "cluster_status": {"ONLINE", "OFFLINE"}}

func readPayload(kind string, v any) (map[string]string, error) {
	o, ok := v.(object)
	if !ok {
		return nil, refuse(400, "Invalid input for field/attribute payload. It is no object.")
	}
	rules, out := payloads[kind], map[string]string{}
	for _, key := range fleet.Sorted(o) {
		s, ok := o[key].(string)
		switch {
		case !payloadKey.MatchString(key) || !slices.Contains(rules.may, key):
			return nil, refuse(400, "Invalid input for field/attribute payload. Additional properties are not allowed ('%.300s' was unexpected)", key)
		case !ok || s == "" || len(s) > 255:
			return nil, refuse(400, "Invalid input for field/attribute %s. Value: %.300v. It must be a string of 1 to 255 characters.", key, o[key])
		case kind != fleet.NoticeServer && words[key] != nil && !slices.Contains(words[key], s):
			return nil, refuse(400, "Invalid input for field/attribute %s. Value: %s. It is none of %s.", key, s, strings.Join(words[key], ", "))
		case key == "instance_uuid" && !uuidLike.MatchString(s):
			return nil, refuse(400, "Invalid input for field/attribute %s. Value: %s. It is no UUID.", key, s)
		}
		out[key] = s
	}
	for _, key := range rules.must {
		if out[key] == "" {
			return nil, refuse(400, "Invalid input for field/attribute payload. '%s' is a required property", key)
		}
	}
	return out, nil
}

// readTime reads a time as notifiers write it: ISO 8601, in UTC where it does not say.
func readTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999-0700", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, refuse(400, "Invalid input for field/attribute generated_time. Value: %.100s. It is no time of ISO 8601.", s)
}

func (s *server) readNotification(r *request) (n fleet.Notification, err error) {
	o, err := r.read("notification", "type", "hostname", "generated_time", "payload")
	if err != nil {
		return n, err
	}
	if n.Type, err = name(o, "type"); err != nil {
		return n, err
	}
	if _, known := payloads[n.Type]; !known {
		return n, refuse(400, "Invalid input for field/attribute type. Value: %s. It is none of %s.", n.Type, strings.Join(fleet.Sorted(payloads), ", "))
	}
	if n.Host, _, err = text(o, "hostname", 255); err != nil {
		return n, err
	}
	if !hostname.MatchString(n.Host) {
		return n, refuse(400, "Invalid input for field/attribute hostname. Value: %q. It is no name of a host.", n.Host)
	}
	generated, _, err := text(o, "generated_time", 100)
	if err != nil {
		return n, err
	}
	if n.Generated, err = readTime(generated); err != nil {
		return n, err
	}
	n.Payload, err = readPayload(n.Type, o["payload"])
	return n, err
}

// createNotification writes down what somebody says. It asks nothing of anybody: what follows,
// follows from what Mainstay itself sees.
func (s *server) createNotification(r *request) (any, error) {
	n, err := s.readNotification(r)
	if err != nil {
		return nil, err
	}
	spec, state := s.Spec(), s.State()
	if !isCompute(spec, n.Host) {
		return nil, refuse(400, "Host with name %s could not be found.", n.Host)
	}
	if _, maintenance := state.Wishes["maintenance-"+n.Host]; maintenance {
		return nil, refuse(409, "Notification received from host %s of type '%s' is ignored as the host is already under maintenance.", n.Host, n.Type)
	}
	n.UUID, n.At, n.By, n.Status = fresh(), s.now(), r.by, fleet.NoticeNew
	if h := state.Holdings[plan.Compute(n.Host)]; h.Host == n.Host {
		n.Boot = h.Boot
	}
	err = s.Keep(r.Context(), func(kept *fleet.Masakari) error {
		kept.Notifications = maps.Clone(kept.Notifications)
		for id, o := range kept.Notifications {
			if o.Type == n.Type && o.Host == n.Host && maps.Equal(o.Payload, n.Payload) && !o.Generated.Before(n.Generated.Add(-twice)) {
				return refuse(409, "Notification received from host %s of type %s is duplicate.", n.Host, n.Type)
			}
			if n.At.Sub(o.At) > plan.NoticeKept {
				delete(kept.Notifications, id)
			}
		}
		for len(kept.Notifications) >= plan.NoticesKept {
			delete(kept.Notifications, slices.MinFunc(fleet.Sorted(kept.Notifications), func(a, b string) int {
				return kept.Notifications[a].At.Compare(kept.Notifications[b].At)
			}))
		}
		kept.Notifications = with(kept.Notifications, n.UUID, n)
		return nil
	})
	if err != nil {
		return nil, err
	}
	// It is kept already, and its sender must not send it again because history is slow.
	if err := s.Tell(r.Context(), r.by, "host/"+n.Host, "says of it: "+says(n)); err != nil {
		s.log.Warn("Masakari's API: tell history of a notification", "error", err)
	}
	return object{"notification": s.showsNotification(n)}, nil
}

func says(n fleet.Notification) string {
	var out []string
	for _, key := range fleet.Sorted(n.Payload) {
		out = append(out, fmt.Sprintf("%s %q", key, n.Payload[key])) // history is read on terminals
	}
	return n.Type + ", " + strings.Join(out, ", ") + " (testimony, upon which nothing is decided)"
}

func (s *server) showsNotification(n fleet.Notification) object {
	o := row(n.UUID, n.At, n.Updated)
	maps.Copy(o, object{"notification_uuid": n.UUID, "type": n.Type, "status": n.Status, "source_host_uuid": hostUUID(s.Spec(), n.Host),
		"payload": n.Payload, "generated_time": stamp(n.Generated)})
	return o
}

func (s *server) listNotifications(r *request) (any, error) {
	kept, err := s.Kept(r.Context())
	if err != nil {
		return nil, err
	}
	var since time.Time
	if q := r.URL.Query(); q.Has("generated-since") {
		if since, err = readTime(q.Get("generated-since")); err != nil {
			return nil, refuse(400, "Invalid generated-since value")
		}
	}
	var list []object
	for _, id := range fleet.Sorted(kept.Notifications) {
		if n := kept.Notifications[id]; !n.Generated.Before(since) {
			list = append(list, s.showsNotification(n))
		}
	}
	list = r.without(list, "status", "type", "source_host_uuid")
	list, err = r.page(list, "notification_uuid", append(stamps, "notification_uuid", "type", "status", "generated_time", "source_host_uuid")...)
	return object{"notifications": list}, err
}

// notification finds the one of the request's path.
func (s *server) notification(r *request) (fleet.Notification, error) {
	kept, err := s.Kept(r.Context())
	if err != nil {
		return fleet.Notification{}, err
	}
	n, known := kept.Notifications[r.PathValue("id")]
	if !known {
		return n, refuse(404, "No notification with id %s.", r.PathValue("id"))
	}
	return n, nil
}

func (s *server) showNotification(r *request) (any, error) {
	n, err := s.notification(r)
	if err != nil {
		return nil, err
	}
	o := s.showsNotification(n)
	if r.minor >= 1 {
		if o["recovery_workflow_details"], err = s.workflow(r.Context(), n); err != nil {
			return nil, err
		}
	}
	return object{"notification": o}, nil
}

// spell is how much earlier and later than a notification's time history is read: its sender
// may have been slower than Mainstay, and the leader's clock is another one.
const spell = time.Minute

// workflow tells what Mainstay made of a notification, and what it did meanwhile about the host
// and the servers that it is about, in history's own words.
func (s *server) workflow(ctx context.Context, n fleet.Notification) ([]object, error) {
	state, progress := map[string]string{
		fleet.NoticeNew: "PENDING", fleet.NoticeRunning: "RUNNING", fleet.NoticeError: "RETRYING", fleet.NoticeFailed: "FAILURE", fleet.NoticeIgnored: "SUCCESS", fleet.NoticeFinished: "SUCCESS",
	}[n.Status], 1.0
	if n.Open() {
		progress = 0
	}
	detail := func(at time.Time, message string) object {
		return object{"timestamp": at.UTC().Format("2006-01-02 15:04:05.000000"), "message": message, "progress": fmt.Sprintf("%.1f", progress)}
	}
	at := n.Updated
	if at.IsZero() {
		at = n.At
	}
	out := []object{{"name": "what Mainstay found", "state": state, "progress": progress,
		"progress_details": []object{detail(at, n.Status+": "+cmp.Or(n.Why, "it has not been looked at yet"))}}}
	about := []string{"host/" + n.Host, plan.Compute(n.Host)}
	names := map[string]string{about[0]: "the host", about[1]: "the host's servers"}
	for _, e := range plan.Moves(n, s.State()) {
		id := "server/" + e.Server
		about, names[id] = append(about, id), "server "+cmp.Or(e.Name, e.Server)
	}
	events, err := s.Events(ctx, "", 0)
	if err != nil {
		return nil, err
	}
	details := map[string][]object{}
	for _, e := range events {
		if names[e.About] == "" || e.At.Before(n.At.Add(-spell)) || !n.Open() && e.At.After(n.Updated.Add(spell)) {
			continue
		}
		details[e.About] = append(details[e.About], detail(e.At, e.Text))
	}
	for _, id := range about {
		if len(details[id]) > 0 {
			out = append(out, object{"name": names[id], "state": state, "progress": progress, "progress_details": details[id]})
		}
	}
	return out, nil
}

// moves are a notification's, for answers.
func (s *server) moves(r *request) ([]object, error) {
	n, err := s.notification(r)
	if err != nil {
		return nil, err
	}
	if n.Type != fleet.NoticeHost {
		return nil, refuse(400, "This notification %s without vmoves: only one of type %s has them.", n.UUID, fleet.NoticeHost)
	}
	var list []object
	for _, e := range plan.Moves(n, s.State()) {
		uuid := named("move", e.Server, e.Boot)
		o := row(uuid, e.At, e.Over)
		status, to := "ongoing", e.To
		switch arrived, on := strings.CutPrefix(e.Ended, "on "); {
		case e.Ended == "":
		case on:
			status, to = "succeeded", arrived
		default: // deleted, or moved by somebody else
			status = "ignored"
		}
		message := strings.Join(append(slices.Clone(e.Path), cmp.Or(e.Ended, fmt.Sprintf("try %d", e.Try))), "; ")
		maps.Copy(o, object{"uuid": uuid, "notification_uuid": n.UUID, "instance_uuid": e.Server, "instance_name": cmp.Or(e.Name, e.Server), "source_host": e.From, "dest_host": nil,
			"start_time": stamp(e.At), "end_time": stamp(e.Over), "type": "evacuation", "status": status, "message": message})
		if to != "" {
			o["dest_host"] = to
		}
		list = append(list, o)
	}
	return list, nil
}

func (s *server) listMoves(r *request) (any, error) {
	list, err := s.moves(r)
	if err != nil {
		return nil, err
	}
	list, err = r.page(r.without(list, "status", "type"), "uuid",
		append(stamps, "uuid", "instance_uuid", "instance_name", "source_host", "dest_host", "start_time", "end_time", "type", "status")...)
	return object{"vmoves": list}, err
}

func (s *server) showMove(r *request) (any, error) {
	list, err := s.moves(r)
	if err != nil {
		return nil, err
	}
	for _, o := range list {
		if o["uuid"] == r.PathValue("move") {
			return object{"vmove": o}, nil
		}
	}
	return nil, refuse(404, "No vm move with id %s.", r.PathValue("move"))
}
