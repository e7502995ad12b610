package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/pagination"

	"mainstay/fleet"
)

// Snapshots of servers' disks are images of Glance's that Nova makes (createImage): its API makes
// the image's record, "queued", before it answers, and its compute fills it. What is
// known of Nova here was read in its source (nova/compute/api.py, manager.py and utils.py, virt/libvirt/driver.py):
//
//   - an administrator's snapshot of another project's server is his own project's image,
//     shared with the server's: so whose an image is says who made it, and nobody can forge that.
//   - a request for a server that is busy is refused (409) after the record was made, which
//     stays "queued" for ever, as do the records of a nova-compute that ended in the midst.
//   - the properties that a snapshot is given go on to the server that is built anew from it, and to
//     the images that its owner makes of that. The name does not.
//   - libvirt's driver freezes the guest's file systems if its image has hw_qemu_guest_agent,
//     and goes on without where it cannot, unless the image has os_require_quiesce: then the snapshot fails.

// The properties of a snapshot that Mainstay made.
const (
	propertyKind   = "mainstay"
	kindSnapshot   = "snapshot"
	propertyServer = "mainstay_server"
	propertyMark   = "mainstay_mark"
)

// stopping is the microversion from which on an evacuated server is left stopped.
const stopping = 95

// imagesFresh is how old the list of all snapshots may be that a look rests on, which asks
// for the servers of whole hosts each second.
const imagesFresh = 20 * time.Second

// glanceWaits bounds what a look waits for Glance, shelfLasts the reading of the whole list.
const (
	glanceWaits = 3 * time.Second
	shelfLasts  = time.Minute
)

// shelf is the newest whole list of the snapshots.
type shelf struct {
	mu     sync.Mutex
	at     time.Time // when it was asked for last
	busy   bool      // the answer has not come yet
	began  fleet.Moment
	away   string // why the newest question came to nothing
	images map[string][]fleet.Image
}

// local says whether any of the site's servers have disks of which snapshots could be.
func (c *Client) local() bool {
	return len(c.cfg.LocalDisks.Hosts)+len(c.cfg.LocalDisks.Roles) > 0
}

// glance is a client of Glance, and the project whose images are Mainstay's own.
func (c *Client) glance() (*gophercloud.ServiceClient, string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.image == nil {
		return nil, "", errors.New("find Glance: the catalogue has no endpoint of type image; openstack catalog list shows what it has")
	}
	return c.image, c.project, nil
}

// speaks says whether this Nova has a microversion.
func (c *Client) speaks(version int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newest >= version
}

// imageOf makes a client of Glance of its endpoint, whether that names a version or not.
func imageOf(provider *gophercloud.ProviderClient, at string) *gophercloud.ServiceClient {
	root := strings.TrimSuffix(strings.TrimSuffix(at, "/"), "/v2") + "/"
	return &gophercloud.ServiceClient{ProviderClient: provider, Endpoint: root, ResourceBase: root + "v2/", Type: "image"}
}

// projectOf is the project that a token is for.
func projectOf(provider *gophercloud.ProviderClient) string {
	if result, ok := provider.GetAuthResult().(tokens.CreateResult); ok {
		if p, err := result.ExtractProject(); err == nil && p != nil {
			return p.ID
		}
	}
	return ""
}

// query is a list's.
type query url.Values

// ToImageListQuery makes it the end of an address.
func (q query) ToImageListQuery() (string, error) { return "?" + url.Values(q).Encode(), nil }

// pictures lists the snapshots that Mainstay made, of one server or ("") of all, by server.
func (c *Client) pictures(ctx context.Context, server string) (map[string][]fleet.Image, error) {
	glance, project, err := c.glance()
	if err != nil {
		return nil, err
	}
	q := url.Values{"owner": {project}, propertyKind: {kindSnapshot}, "limit": {strconv.Itoa(page)}}
	if server != "" {
		q.Set(propertyServer, server)
	}
	out := map[string][]fleet.Image{}
	err = images.List(glance, query(q)).EachPage(ctx, func(_ context.Context, p pagination.Page) (bool, error) {
		list, err := images.ExtractImages(p)
		if err != nil {
			return false, err
		}
		for i := range list {
			if x, ours := picture(&list[i], project); ours {
				out[x.Server] = append(out[x.Server], x)
			}
		}
		return true, nil
	})
	if err != nil {
		c.forget(err)
		return nil, fmt.Errorf("list the snapshots: %w", plain(err))
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b fleet.Image) int { return b.Made.Compare(a.Made) })
	}
	return out, nil
}

// picture is an image in Mainstay's words, if Mainstay made it.
func picture(i *images.Image, project string) (fleet.Image, bool) {
	word := func(key string) string { s, _ := i.Properties[key].(string); return s }
	x := fleet.Image{ID: i.ID, Server: word(propertyServer), Status: string(i.Status), Mark: word(propertyMark), Made: i.CreatedAt.UTC(), Size: i.SizeBytes}
	return x, i.Owner == project && word(propertyKind) == kindSnapshot && x.Server != "" && i.Name == fleet.ImageName(x.Server, x.Mark)
}

// seen adds the snapshots of a look's servers to it: of few that were asked for by id at once,
// of the others as the newest whole list has them, which is made apart. Nothing else waits for Glance.
func (c *Client) seen(ctx context.Context, began fleet.Moment, out *fleet.Cloud, further []string) {
	if !c.local() || len(out.Servers) == 0 {
		return
	}
	out.Images = map[string]fleet.Images{}
	c.shelf.mu.Lock()
	for id := range out.Servers {
		if c.shelf.images != nil {
			out.Images[id] = fleet.Images{At: c.shelf.began, List: c.shelf.images[id]}
		}
	}
	// One at a time: an older list that ends later would hide what a newer one had.
	stale := !c.shelf.busy && time.Since(c.shelf.at) > imagesFresh
	if stale {
		c.shelf.at, c.shelf.busy = time.Now(), true
	}
	out.Glance = c.shelf.away
	c.shelf.mu.Unlock()
	if stale {
		go c.fillShelf(began)
	}
	if len(further) > few || out.Glance != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, glanceWaits)
	defer cancel()
	for _, id := range further {
		found, err := c.pictures(ctx, id)
		if err != nil {
			out.Glance = err.Error()
			return
		}
		out.Images[id] = fleet.Images{At: began, List: found[id]}
	}
}

// fillShelf makes the whole list anew.
func (c *Client) fillShelf(began fleet.Moment) {
	ctx, cancel := context.WithTimeout(context.Background(), shelfLasts)
	defer cancel()
	found, err := c.pictures(ctx, "")
	c.shelf.mu.Lock()
	defer c.shelf.mu.Unlock()
	c.shelf.busy = false
	if err != nil {
		c.shelf.away = err.Error()
		return
	}
	c.shelf.away, c.shelf.began, c.shelf.images = "", began, found
}

// Stock asks for all servers, and for all images that Mainstay made. at is when the caller began, and
// becomes Stock.At. All is there, or there is an error.
func (c *Client) Stock(ctx context.Context, at time.Time) (fleet.Stock, error) {
	nova, err := c.connect(ctx)
	if err != nil {
		return fleet.Stock{}, err
	}
	out := fleet.Stock{At: at, Used: map[string]bool{}}
	// Images first: one that a server is given meanwhile is seen to be used.
	if out.Images, err = c.pictures(ctx, ""); err != nil {
		return fleet.Stock{}, err
	}
	l := look{c: c, nova: nova}
	speaker, full := l.speaker()
	q := url.Values{"all_tenants": {"true"}, "limit": {strconv.Itoa(page)}}
	err = list(ctx, speaker, "servers/detail", "servers", q, func(s server) string { return s.ID }, func(part []server) (bool, error) {
		for _, s := range part {
			words, err := s.words(full)
			if err != nil {
				return false, err // a cell is away: what is not listed is not gone
			}
			out.Servers = append(out.Servers, words)
			out.Used[words.Image] = true
		}
		return true, nil
	})
	if err != nil {
		c.forget(err)
		return fleet.Stock{}, fmt.Errorf("list all servers: %w", plain(err))
	}
	left, err := c.ownersOf(ctx, nova, owners(slices.Values(out.Servers)))
	if err != nil {
		return fleet.Stock{}, err
	}
	for i := range out.Servers {
		if name, ok := left[out.Servers[i].Project]; ok {
			out.Servers[i].Project = name
		}
	}
	slices.SortFunc(out.Servers, func(a, b fleet.Server) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// snapshot asks Nova for an image of a server's disk, that bears a mark.
func snapshot(ctx context.Context, nova *gophercloud.ServiceClient, id, mark string) error {
	return act(ctx, nova, id, map[string]any{"createImage": map[string]any{"name": fleet.ImageName(id, mark),
		"metadata": map[string]string{propertyKind: kindSnapshot, propertyServer: id, propertyMark: mark}}})
}

// restore asks Nova to build a server anew on its host, from another image: its id, ports,
// addresses and metadata stay, its disk is overwritten. So it is not asked for what is done: Nova writes
// the image down with the task, before it answers, and takes it back where it finds no host. Nor is it asked with an image
// that is not whole: it would take the disk first, and find that out later.
func (c *Client) restore(ctx context.Context, nova *gophercloud.ServiceClient, id, image string) error {
	s, err := state(ctx, nova, id)
	switch {
	case err != nil:
		return &unasked{err}
	case imageID(s.Image) == image && s.State != fleet.ServerError:
		return nil
	}
	if err := c.whole(ctx, image); err != nil {
		return err
	}
	return act(ctx, nova, id, map[string]any{"rebuild": map[string]any{"imageRef": image}})
}

// whole says why an image could not be restored from.
func (c *Client) whole(ctx context.Context, id string) error {
	glance, _, err := c.glance()
	if err != nil {
		return &unasked{err}
	}
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	i, err := images.Get(ctx, glance, id).Extract()
	switch {
	case err != nil:
		return &unasked{err}
	case i.Status != images.ImageStatusActive:
		return &answer{http.StatusConflict, fmt.Sprintf("image %s is %s", id, i.Status)}
	}
	return nil
}

// prune deletes an image that Mainstay made.
func (c *Client) prune(ctx context.Context, id string) error {
	glance, project, err := c.glance()
	if err != nil {
		return &unasked{err}
	}
	look, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	i, err := images.Get(look, glance, id).Extract()
	switch {
	case err != nil && status(plain(err)) == http.StatusNotFound:
		return nil
	case err != nil:
		return &unasked{err}
	}
	if _, ours := picture(i, project); !ours {
		return &answer{http.StatusConflict, fmt.Sprintf("image %s (%s) is none that Mainstay made", id, i.Name)}
	}
	err = images.Delete(ctx, glance, id).ExtractErr()
	if err != nil && status(plain(err)) == http.StatusNotFound {
		return nil
	}
	return err
}

// imageID is what Nova says of a server's image: "" where it boots from a volume.
func imageID(said any) string {
	if m, ok := said.(map[string]any); ok {
		id, _ := m["id"].(string)
		return id
	}
	return ""
}
