package falsecloud

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

// How Nova (Zed, by its source) makes images of servers' disks and builds servers from them, each line
// with the place where it is played:
//
//	not active, stopped, paused or suspended, or with a task   409                                           snapshot
//	accepted                                                   the image is queued, then the answer          snapshot
//	at the compute                                             its content is of now; saving; active, and no task  upload
//	the upload fails                                           the image is deleted, and no task             upload
//	the compute dies in the midst                              queued or saving for ever; the task until its return  upload, images.go settle
//	a rebuild with a task                                      409                                           rebuild
//	of an image that does not exist                            400                                           rebuild
//	a rebuild is accepted                                      its new image is on record with the task      rebuild
//	done                                                       the disk is the image's; what was stopped is stopped again  rebuild
//	the compute dies in the midst                              error at its return                           settle
//	an evacuation, the disk not at the target                  the disk is that of the server's image        finish (evacuate.go)
//	the host is back                                           the disk of what was evacuated is destroyed   began (evacuate.go)
//
// A disk's content is a number, so that an audit can see which data came back.

// image is one of Glance's.
type image struct {
	id, name, owner, status string
	created                 time.Time
	properties              map[string]string
	data                    int
}

// ours is the project of the user with the role admin.
const ours = "5c4ed01e00004000800000000000000a"

// original is the image that every server is made from; its content is 0.
const original = "1000000a-0000-4000-8000-000000000000"

// LocalDisks has the servers' disks on some computes be on these alone.
func (c *Cloud) LocalDisks(hosts ...string) {
	defer c.enter()()
	for _, name := range hosts {
		c.computes[name].local = true
	}
}

// Write changes what is on a server's disk.
func (c *Cloud) Write(id string, data int) {
	defer c.enter()()
	s := c.servers[id]
	c.disk(s, c.computes[s.Host])[id] = data
}

// Data is what is on a server's disk, where Nova has the server.
func (c *Cloud) Data(id string) int {
	defer c.enter()()
	s := c.servers[id]
	return c.disk(s, c.computes[s.Host])[id]
}

// disk is where a server's disk would be on a host.
func (c *Cloud) disk(s *server, h *compute) map[string]int {
	if h == nil || !h.local || s.Volume {
		return c.shared
	}
	return h.disks
}

// FailSnapshots lets the next n snapshots fail on their way into Glance.
func (c *Cloud) FailSnapshots(n int) {
	defer c.enter()()
	c.failing = n
}

// AddImage adds an image as somebody else would make one, and returns its id.
func (c *Cloud) AddImage(name, owner string, properties map[string]string) string {
	defer c.enter()()
	i := &image{id: c.id(), name: name, owner: owner, status: "active", created: c.now, properties: properties}
	c.images = append(c.images, i)
	return i.id
}

// Images says, by id, the status of each image.
func (c *Cloud) Images() map[string]string {
	defer c.enter()()
	out := map[string]string{}
	for _, i := range c.images {
		out[i.id] = i.status
	}
	return out
}

func (c *Cloud) imageOf(id string) *image {
	for _, i := range c.images {
		if i.id == id {
			return i
		}
	}
	return nil
}

func (i *image) show() object {
	o := object{"id": i.id, "name": i.name, "owner": i.owner, "status": i.status, "visibility": "shared", "created_at": i.created.UTC().Format(time.RFC3339), "updated_at": i.created.UTC().Format(time.RFC3339),
		"tags": []string{}, "protected": false, "os_hidden": false, "min_disk": 1, "min_ram": 0, "size": nil, "disk_format": nil, "container_format": nil, "checksum": nil, "file": "/v2/images/" + i.id + "/file", "schema": "/v2/schemas/image"}
	if i.status == "active" {
		o["size"], o["disk_format"], o["container_format"] = 1<<20, "qcow2", "bare"
	}
	for _, key := range slices.Sorted(maps.Keys(i.properties)) {
		o[key] = i.properties[key]
	}
	return o
}

// listImages is Glance's list, newest first, filtered by owner, status and any property.
func (c *Cloud) listImages(w http.ResponseWriter, r *request) {
	var list []*image
	for _, i := range slices.Backward(c.images) {
		fits := true
		for key, values := range r.URL.Query() {
			switch key {
			case "limit", "marker":
			case "owner":
				fits = fits && i.owner == values[0]
			case "status":
				fits = fits && i.status == values[0]
			default:
				fits = fits && i.properties[key] == values[0]
			}
		}
		if fits {
			list = append(list, i)
		}
	}
	list, more := paged(c, r, list, func(i *image) string { return i.id })
	shown := []object{}
	for _, i := range list {
		shown = append(shown, i.show())
	}
	out := object{"images": shown, "first": "/v2/images", "schema": "/v2/schemas/images"}
	if more != "" {
		q := r.URL.Query()
		q.Set("marker", more)
		out["next"] = "/v2/images?" + q.Encode()
	}
	answer(w, 200, out)
}

func (c *Cloud) showImage(w http.ResponseWriter, r *request) {
	i := c.imageOf(r.PathValue("id"))
	if i == nil {
		complain(w, 404, "itemNotFound", "No image found with ID "+r.PathValue("id"))
		return
	}
	answer(w, 200, i.show())
}

func (c *Cloud) deleteImage(w http.ResponseWriter, r *request) {
	i := c.imageOf(r.PathValue("id"))
	if i == nil {
		complain(w, 404, "itemNotFound", "Failed to find image "+r.PathValue("id")+" to delete")
		return
	}
	c.images = slices.DeleteFunc(c.images, func(x *image) bool { return x == i })
	w.WriteHeader(204)
}

// snapshot is Nova's API for an image of a server's disk.
func (c *Cloud) snapshot(s *server, how json.RawMessage) *refusal {
	var ask struct {
		Name     string            `json:"name"`
		Metadata map[string]string `json:"metadata"`
	}
	switch err := json.Unmarshal(how, &ask); {
	case err != nil || ask.Name == "":
		return &refusal{400, "Invalid input for field/attribute createImage."}
	case !slices.Contains([]string{"active", "stopped", "paused", "suspended"}, s.State):
		return &refusal{409, fmt.Sprintf("Cannot 'createImage' instance %s while it is in vm_state %s", s.id, s.State)}
	case s.task != "":
		return &refusal{409, fmt.Sprintf("Cannot 'createImage' instance %s while it is in task_state %s", s.id, s.task)}
	}
	i := &image{id: c.id(), name: ask.Name, owner: ours, status: "queued", created: c.now, properties: maps.Clone(ask.Metadata)}
	c.images = append(c.images, i)
	s.task, s.updated = "image_snapshot_pending", c.now
	h := c.computes[s.Host]
	life := h.life
	c.after(c.cfg.Schedule, func() { c.upload(s, h, i, life) })
	return nil
}

// upload is the compute's part.
func (c *Cloud) upload(s *server, h *compute, i *image, life int) {
	mine := func() bool { return h.life == life && h.reports() && !s.deleted && s.Host == h.name }
	if !mine() {
		return
	}
	i.data, s.task = c.disk(s, h)[s.id], "image_snapshot"
	c.after(c.cfg.Work, func() {
		if !mine() {
			return
		}
		i.status, s.task = "saving", "image_uploading"
		c.after(c.cfg.Work, func() {
			if !mine() {
				return
			}
			i.status, s.task, s.updated = "active", "", c.now
			if c.failing > 0 {
				c.failing--
				c.images = slices.DeleteFunc(c.images, func(x *image) bool { return x == i })
			}
		})
	})
}

// rebuild is Nova's API to build a server anew on its host, from another image.
func (c *Cloud) rebuild(s *server, how json.RawMessage) *refusal {
	var ask struct {
		Image string `json:"imageRef"`
	}
	i := (*image)(nil)
	if err := json.Unmarshal(how, &ask); err == nil {
		i = c.imageOf(ask.Image)
	}
	switch {
	case i == nil:
		return &refusal{400, "Cannot find image for rebuild"}
	case i.status != "active":
		return &refusal{400, fmt.Sprintf("Image %s is not active.", i.id)}
	case !slices.Contains([]string{"active", "stopped", "error"}, s.State):
		return &refusal{409, fmt.Sprintf("Cannot 'rebuild' instance %s while it is in vm_state %s", s.id, s.State)}
	case s.task != "":
		return &refusal{409, fmt.Sprintf("Cannot 'rebuild' instance %s while it is in task_state %s", s.id, s.task)}
	}
	s.image, s.task, s.updated = i.id, "rebuilding", c.now
	h, was := c.computes[s.Host], s.State
	life := h.life
	c.after(c.cfg.Work, func() {
		if h.life != life || !h.reports() || s.deleted || s.Host != h.name {
			return
		}
		c.disk(s, h)[s.id] = i.data
		s.task, s.fault, s.State, s.updated = "", "", "active", c.now
		c.run(s, h)
		if was == "stopped" {
			s.State = "stopped"
			delete(h.guests, s.id)
		}
	})
	return nil
}

// carries is what an evacuation does to the disk: where the target does not find it, it is
// that of the server's image.
func (c *Cloud) carries(s *server, from, to *compute) {
	if s.Volume || from == nil || !from.local && !to.local {
		return
	}
	data := 0
	if i := c.imageOf(cmp.Or(s.image, original)); i != nil {
		data = i.data
	}
	c.disk(s, to)[s.id] = data
}

// settle is what a nova-compute does at its start with snapshots and rebuilds that it finds.
func (c *Cloud) settle(h *compute) {
	for _, s := range h.servers {
		switch {
		case len(s.task) > 6 && s.task[:6] == "image_":
			s.task, s.updated = "", c.now
		case s.task == "rebuilding" && !slices.ContainsFunc(c.migrations, func(m *migration) bool { return m.server == s && m.from == h.name }):
			s.State, s.task, s.updated = "error", "", c.now
		}
	}
}
