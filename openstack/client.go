// Package openstack looks at a site's cloud and acts on it, in Mainstay's words.
//
// It is the only package that speaks to Keystone and Nova, and it decides nothing. There
// are two calls: Look says what Nova has on record of computes, servers and evacuations;
// Do carries out one step of fleet.VerbCloud. A third, Examine, says long before a fault
// what would be in the way of the other two.
//
//	Look   what was answered comes back, and beside it an error for what was not
//	Do     nil: done      *Error: Refused or Broken, surely not done; NoWord, perhaps done
//
// The rule to know: Nova's answer and Nova's deed are two things. An answer that was lost,
// late or a 5xx belongs to a deed that may have been done (NoWord), so nobody asks again
// on it: whoever wants to know looks. For an evacuation the place to look is its migration
// record, which Nova writes before it answers; for a server's state it is not, for a server
// stands at active, with no task, on its dead host, while it waits for its turn.
//
// What of Nova's behaviour all this rests on was measured on Zed and is played by
// falsecloud; contract_test.go holds the false cloud, and a real one, to the same list.
//
// Credentials come from clouds.yaml on the host and go to Keystone alone. Nothing is
// contacted before the first call, and every call ends by its context.
package openstack

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	cloud "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"mainstay/fleet"
)

// The microversions of Nova's API that are spoken, as the second number of 2.x.
//
// One is enough for nearly all: 2.87 (Ussuri, 2020), which every release from then to this
// day serves. It is below 2.88, from which on a list of hypervisors has no memory any more
// and asks every compute in turn by RPC for its uptime, dead ones too; below 2.95, from which
// on an evacuated server is left stopped; and above 2.68, which took away "force", by which
// the scheduler was not asked.
const (
	spoken = 87
	// pinned is the one from which on a list of servers says which zone its owner asked for.
	// Older releases say only in which zone its host is.
	pinned = 96
)

// each bounds one request, so that one that hangs does not take a whole look's time.
// 1,000 hypervisors are Nova's slowest answer.
const each = 15 * time.Second

// Client is one site's cloud. It is used by any number of goroutines.
type Client struct {
	cfg  fleet.OpenStack
	http http.Client

	// door is held by whoever logs in; a mutex that a context can leave.
	door chan struct{}

	mu       sync.Mutex
	nova     *gophercloud.ServiceClient // nil: nobody is logged in
	identity *gophercloud.ServiceClient // nil: nobody is logged in to ask about tokens
	// placement is nil where the catalogue has none.
	placement *gophercloud.ServiceClient
	// instanceHA is where the catalogue has Masakari's API, Mainstay's own or another's; "": nowhere.
	instanceHA string
	image      *gophercloud.ServiceClient // Glance; nil where the catalogue has none
	project    string                     // whose images those of Mainstay are
	shelf      shelf                      // has a lock of its own
	newest     int                        // microversion that this Nova speaks
	ids        map[string]string          // of the computes' services, by host
	rooms      map[string]room            // by host, as last told
	left       map[string]string          // the projects of cfg.Leave that are named there: id to name
	owners     map[string]bool            // the projects that were there, by id, when that was asked last
	history    history                    // of evacuations; has a lock of its own
	live       history                    // of live migrations
}

// Open reads the credentials of cfg.Cloud from cfg.Config (and a secure.yaml beside it).
// Nothing is contacted: whether they are good shows at the first call. They are read again
// at each login, and a login follows when Keystone refuses the old ones, so a password may
// change while the agent runs; what is said of TLS is read once. The
// environment's variables (OS_...) and proxies play no part, so that a person's shell and the
// agent see the same cloud.
func Open(cfg fleet.OpenStack) (*Client, error) {
	l, err := read(cfg)
	if err != nil {
		return nil, err
	}
	return &Client{
		cfg:  cfg,
		http: http.Client{Transport: &http.Transport{TLSClientConfig: l.tls, MaxIdleConnsPerHost: width, IdleConnTimeout: time.Minute}},
		door: make(chan struct{}, 1),
		ids:  map[string]string{}, rooms: map[string]room{}, owners: map[string]bool{},
		history: newHistory(evacuations, 0),
		live:    newHistory("live-migration", 24*time.Hour),
	}, nil
}

// login is what one entry of clouds.yaml says.
type login struct {
	gophercloud.AuthOptions
	gophercloud.EndpointOpts
	tls *tls.Config
}

func read(cfg fleet.OpenStack) (l login, err error) {
	fail := func(err error) (login, error) {
		return login{}, fmt.Errorf("read cloud %q of %s: %w", cfg.Cloud, cfg.Config, err)
	}
	f, err := os.Open(cfg.Config)
	if err != nil {
		return fail(errors.Unwrap(err)) // the path is told already
	}
	f.Close()
	l.AuthOptions, l.EndpointOpts, l.tls, err = clouds.Parse(clouds.WithLocations(cfg.Config), clouds.WithCloudName(cfg.Cloud), clouds.WithRegion(""), clouds.WithEndpointType(""))
	if err != nil {
		return fail(discreet(err))
	}
	u, err := url.Parse(l.IdentityEndpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return fail(errors.New("its auth_url is no address of a Keystone, such as https://10.0.0.100:5000/v3"))
	case u.User != nil:
		return fail(errors.New("its auth_url holds a user; user and password stand in keys of their own"))
	case l.TokenID != "":
		return fail(errors.New("it has a token, which ends and cannot be renewed; give a user with a password, or an application credential"))
	case l.Password == "" && l.ApplicationCredentialSecret == "":
		return fail(errors.New("it has neither a password nor an application credential's secret"))
	}
	l.AllowReauth = true
	return l, nil
}

// Close gives back the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// quoted is what a YAML parser cites of the file in its complaint: it may be a password.
var quoted = regexp.MustCompile("`[^`]*`|\"[^\"]*\"")

// discreet is err without what it cites.
func discreet(err error) error {
	text := err.Error()
	if strings.Contains(text, "yaml:") {
		text = quoted.ReplaceAllString(text, "what stands there")
	}
	return errors.New(text)
}

// enter waits until nobody else logs in.
func (c *Client) enter(ctx context.Context) (leave func(), err error) {
	select {
	case c.door <- struct{}{}:
		return func() { <-c.door }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("log in to Keystone: %w", ctx.Err())
	}
}

// connect returns a client of Nova, after logging in and asking it for its versions if
// that has not been done. Its errors mean that Nova was asked for nothing.
func (c *Client) connect(ctx context.Context) (*gophercloud.ServiceClient, error) {
	leave, err := c.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	c.mu.Lock()
	nova := c.nova
	c.mu.Unlock()
	if nova != nil {
		return nova, nil
	}
	provider, l, err := c.login(ctx)
	if err != nil {
		return nil, err
	}
	root, err := c.compute(provider, l)
	if err != nil {
		return nil, err
	}
	nova = &gophercloud.ServiceClient{ProviderClient: provider, Endpoint: root, Type: "compute"}
	newest, err := versions(ctx, nova)
	if err != nil {
		return nil, err
	}
	nova.Microversion = "2." + strconv.Itoa(spoken)
	left, err := c.projects(ctx, provider)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nova, c.newest, c.left, c.placement = nova, newest, left, nil
	if at, err := c.endpoint(provider, l, "placement"); err == nil {
		c.placement = &gophercloud.ServiceClient{ProviderClient: provider, Endpoint: strings.TrimSuffix(at, "/") + "/", Type: "placement", Microversion: "1." + strconv.Itoa(placed)}
	}
	c.image, c.project = nil, projectOf(provider)
	if at, err := c.endpoint(provider, l, "image"); err == nil {
		c.image = imageOf(provider, at)
	}
	c.instanceHA, _ = c.endpoint(provider, l, "instance-ha") // most clouds have none
	return nova, nil
}

// login reads the credentials and shows them to Keystone.
func (c *Client) login(ctx context.Context) (*gophercloud.ProviderClient, login, error) {
	l, err := read(c.cfg)
	if err != nil {
		return nil, l, err
	}
	provider, err := cloud.NewClient(l.IdentityEndpoint)
	if err != nil {
		return nil, l, fmt.Errorf("log in to Keystone: %w", err)
	}
	provider.HTTPClient = c.http
	if err := cloud.Authenticate(ctx, provider, l.AuthOptions); err != nil {
		return nil, l, fmt.Errorf("log in to Keystone: %w", plain(err))
	}
	return provider, l, nil
}

// compute finds Nova in the catalogue.
func (c *Client) compute(provider *gophercloud.ProviderClient, l login) (string, error) {
	at, err := c.endpoint(provider, l, "compute")
	if err != nil {
		return "", err
	}
	root, _, found := strings.Cut(at+"/", "/v2.1/") // what may follow is a project's id
	if !found {
		return "", fmt.Errorf("find Nova: its endpoint %s has no version; openstack endpoint set --url %s/v2.1 mends it", at, strings.TrimSuffix(at, "/"))
	}
	return root + "/v2.1/", nil
}

// endpoint finds a service in the catalogue that came with the token. gophercloud's own search
// asks an address without a version which ones it has, and that without a deadline; and of
// several regions it takes the first.
func (c *Client) endpoint(provider *gophercloud.ProviderClient, l login, kind string) (string, error) {
	who := map[string]string{"compute": "Nova", "placement": "Placement", "image": "Glance", "instance-ha": "Masakari"}[kind]
	result, ok := provider.GetAuthResult().(tokens.CreateResult)
	if !ok {
		return "", errors.New("log in to Keystone: it speaks no v3")
	}
	catalogue, err := result.ExtractServiceCatalog()
	if err != nil {
		return "", fmt.Errorf("log in to Keystone: read its catalogue: %w", err)
	}
	byRegion := map[string]string{}
	for _, e := range catalogue.Entries {
		if e.Type != kind {
			continue
		}
		for _, at := range e.Endpoints {
			if string(l.Availability) == at.Interface && (l.Region == "" || l.Region == at.Region || l.Region == at.RegionID) {
				byRegion[at.Region] = at.URL
			}
		}
	}
	regions := fleet.Sorted(byRegion)
	switch len(regions) {
	case 0:
		return "", fmt.Errorf("find %s: the catalogue has no %s endpoint of type %s%s; openstack catalog list shows what it has", who, l.Availability, kind, of(l.Region))
	case 1:
	default:
		return "", fmt.Errorf("find %s: the catalogue has one in each of the regions %s; name the site's as region_name in %s", who, strings.Join(regions, ", "), c.cfg.Config)
	}
	return byRegion[regions[0]], nil
}

func of(region string) string {
	if region == "" {
		return ""
	}
	return " in region " + region
}

// versions returns the newest microversion of this Nova. gophercloud's own question takes
// a Nova that does not answer for one that has no microversions.
func versions(ctx context.Context, nova *gophercloud.ServiceClient) (newest int, err error) {
	var said struct {
		Version struct {
			Min string `json:"min_version"`
			Max string `json:"version"`
		} `json:"version"`
	}
	if _, err := nova.Get(ctx, nova.Endpoint, &said, nil); err != nil { //nolint:bodyclose // gophercloud does
		return 0, fmt.Errorf("ask Nova for its versions: %w", plain(err))
	}
	second := func(s string) int {
		n, err := strconv.Atoi(strings.TrimPrefix(s, "2."))
		if err != nil {
			return -1
		}
		return n
	}
	oldest, newest := second(said.Version.Min), second(said.Version.Max)
	if oldest < 0 || oldest > spoken || newest < spoken {
		return 0, fmt.Errorf("ask Nova for its versions: it speaks %s to %s; 2.%d is needed, which every Nova from Ussuri to 2025.1 has",
			said.Version.Min, said.Version.Max, spoken)
	}
	return newest, nil
}

// identifier is a project's id, of which Keystone need not be asked.
var identifier = regexp.MustCompile("^[0-9a-f]{32}$")

// projects finds the projects that the site's file names as left to their owners. Without them
// nobody knows whose servers those are, so nothing goes on without an answer. A name of which
// there is none is no error here: Examine tells it.
func (c *Client) projects(ctx context.Context, provider *gophercloud.ProviderClient) (map[string]string, error) {
	identity, err := cloud.NewIdentityV3(provider, gophercloud.EndpointOpts{})
	if err != nil {
		return nil, fmt.Errorf("find the projects that are left to their owners: %w", err)
	}
	left := map[string]string{}
	for _, name := range c.cfg.Leave {
		if identifier.MatchString(name) {
			continue
		}
		var said struct {
			Projects []struct{ ID string } `json:"projects"`
		}
		if _, err := identity.Get(ctx, identity.ServiceURL("projects")+"?"+url.Values{"name": {name}}.Encode(), &said, nil); err != nil { //nolint:bodyclose // gophercloud does
			return nil, fmt.Errorf("find project %q, which is left to its owner: %w", name, plain(err))
		}
		for _, p := range said.Projects {
			left[p.ID] = name
		}
	}
	return left, nil
}

// ownersOf says which projects are left to their owners, where servers of these are seen. A project that nobody has seen
// may be younger than the last answer: it is asked again, once for each. Octavia's is made with Octavia, long after Mainstay's
// login, and without this its amphorae were evacuated (seen in lab-incidents).
func (c *Client) ownersOf(ctx context.Context, nova *gophercloud.ServiceClient, projects iter.Seq[string]) (map[string]string, error) {
	named := slices.ContainsFunc(c.cfg.Leave, func(name string) bool { return !identifier.MatchString(name) })
	if !named {
		return nil, nil // most sites name none, and an id needs no answer
	}
	var unseen []string
	c.mu.Lock()
	left := c.left
	for id := range projects {
		if !c.owners[id] {
			unseen = append(unseen, id)
		}
	}
	c.mu.Unlock()
	if len(unseen) == 0 {
		return left, nil
	}
	left, err := c.projects(ctx, nova.ProviderClient)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = left
	for _, id := range unseen {
		c.owners[id] = true
	}
	return left, nil
}

// at is nova speaking another microversion.
func at(nova *gophercloud.ServiceClient, version int) *gophercloud.ServiceClient {
	n := *nova
	n.Microversion = "2." + strconv.Itoa(version)
	return &n
}

// forget logs out if Keystone does not take the credentials any more, and so has them read
// again by whoever comes next.
func (c *Client) forget(err error) {
	if again, ok := errors.AsType[*gophercloud.ErrUnableToReauthenticate](err); ok && status(plain(again.ErrReauth)) == http.StatusUnauthorized {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.nova = nil
	}
}

// know remembers the ids of the computes' services.
func (c *Client) know(host, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == "" {
		delete(c.ids, host)
		return
	}
	c.ids[host] = id
}

func (c *Client) known(host string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ids[host]
}

// unique is list without doubles, sorted.
func unique(list []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(list)))
}
