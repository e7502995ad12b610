package openstack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"mainstay/fleet"
)

// Examine says, in sentences for `mainstay check`, what would keep Look or Do from working on
// the day it matters, and what would be right. computes are the hosts of the site's file that
// are computes; with none it does not compare them with Nova's. It changes nothing.
func (c *Client) Examine(ctx context.Context, computes []string) (found []string) {
	if info, err := os.Stat(c.cfg.Config); err == nil && info.Mode().Perm()&0o007 != 0 {
		found = append(found, fmt.Sprintf("%[1]s can be read by everybody on this host, and holds a password: chmod 600 %[1]s", c.cfg.Config))
	}
	nova, err := c.connect(ctx)
	if err != nil {
		return append(found, c.advise(err))
	}
	l := look{c: c, nova: nova, width: make(chan struct{}, width)}
	known, lost, err := l.computes(ctx)
	if err != nil {
		return append(found, c.advise(err))
	}
	for _, host := range fleet.Sorted(lost) {
		found = append(found, fmt.Sprintf("Nova does not reach the cell of %s: nothing on it is looked at or evacuated until it does", host))
	}
	if err := records(ctx, nova, "evacuation", func([]record) (bool, error) { return false, nil }); err != nil {
		found = append(found, c.advise(fmt.Errorf("list the evacuations: %w", plain(err))))
	}
	c.mu.Lock()
	left, newest := slices.Collect(maps.Values(c.left)), c.newest
	c.mu.Unlock()
	if newest < pinned {
		found = append(found, fmt.Sprintf("this Nova speaks up to 2.%d, and says only from 2.%d on (2024.2) which zone a server's owner asked for: the zone of its host is taken for it, so no server is evacuated to another zone, also where its owner asked for none", newest, pinned))
	}
	if problem := c.rival(ctx); problem != "" {
		found = append(found, problem)
	}
	for _, name := range c.cfg.Leave {
		if !slices.Contains(left, name) && !identifier.MatchString(name) {
			found = append(found, fmt.Sprintf("there is no project %q, whose servers the site's file leaves to their owner; openstack project list shows them", name))
		}
	}
	if len(computes) > 0 {
		found = append(found, compare(computes, known, lost)...)
	}
	return found
}

// rival says that another program answers for instance HA in this cloud: two that evacuate the same
// server spoil it, for Nova refuses neither. One that does not answer may be anybody's, Mainstay's too.
func (c *Client) rival(ctx context.Context) string {
	c.mu.Lock()
	at := c.instanceHA
	c.mu.Unlock()
	if at == "" {
		return ""
	}
	if root, _, versioned := strings.Cut(at+"/", "/v1/"); versioned { // what may follow is a project's id
		at = root + "/v1/"
	}
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return fmt.Sprintf("the catalogue's endpoint of type instance-ha, %q, is no URL: %v", at, err)
	}
	answer, err := c.http.Do(req)
	if err != nil {
		return ""
	}
	defer answer.Body.Close()
	if answer.Header.Get("Server") == masakari || answer.StatusCode >= 500 { // a proxy whose servers are down
		return ""
	}
	return fmt.Sprintf("%s, the catalogue's instance-ha, does not answer as Mainstay's does (Server: mainstay): a masakari-engine there evacuates too, and two that evacuate the same server spoil it. On every controller: systemctl disable --now masakari-engine masakari-api; then openstack endpoint set --url to port 15868 of the site's address", at)
}

// masakari is how Mainstay's own Masakari API calls itself (package api/masakari).
const masakari = "mainstay"

// advise is err, with what would be right.
func (c *Client) advise(err error) string {
	e, answered := errors.AsType[*answer](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("%v; if it stays so, no server is evacuated until it ends", strings.ReplaceAll(err.Error(), context.DeadlineExceeded.Error(), "no answer in time"))
	case answered && e.status == http.StatusUnauthorized:
		return fmt.Sprintf("%v; user, password and project of cloud %q in %s must be those that openstack --os-cloud %s token issue works with", err, c.cfg.Cloud, c.cfg.Config, c.cfg.Cloud)
	case answered && e.status == http.StatusForbidden:
		return fmt.Sprintf("%v; the user of cloud %q needs the role admin in its project: openstack role add --user USER --project PROJECT admin", err, c.cfg.Cloud)
	}
	return err.Error()
}

// compare says which computes one side knows and the other does not: they would not be
// evacuated, or not be fenced. Names must be the same on both sides (nova.conf's host).
func compare(computes []string, known map[string]fleet.Compute, lost map[string]bool) (found []string) {
	var unknown, foreign []string
	for _, host := range unique(computes) {
		if _, ok := known[host]; !ok && !lost[host] {
			unknown = append(unknown, host)
		}
	}
	for _, host := range fleet.Sorted(known) {
		if !slices.Contains(computes, host) {
			foreign = append(foreign, host)
		}
	}
	if len(unknown) > 0 {
		found = append(found, fmt.Sprintf("Nova knows no %s of %s, so nothing is evacuated from there; the name in the site's file must be the one that openstack compute service list shows (nova.conf: host)", binary, some(unknown)))
	}
	if len(foreign) > 0 {
		found = append(found, fmt.Sprintf("Nova has computes that the site's file has not: %s; nobody watches or fences them, and their servers are not evacuated", some(foreign)))
	}
	return found
}

// some is a list that a person can read.
func some(names []string) string {
	const most = 10
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
