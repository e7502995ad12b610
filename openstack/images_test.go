package openstack_test

import (
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/openstack/falsecloud"
)

// admins is the project of the played cloud's administrator.
const admins = "5c4ed01e00004000800000000000000a"

// TestImages: only what Mainstay made counts as a snapshot, all pages of it; Glance away is told and holds
// up nothing else.
func TestImages(t *testing.T) {
	f, clock, client := serve(t, falsecloud.Config{Page: 2})
	f.AddCompute("n1", "", 8192)
	id := f.AddServer(falsecloud.Server{Name: "s", Host: "n1"})
	says := func(server, mark string) map[string]string {
		return map[string]string{"mainstay": "snapshot", "mainstay_server": server, "mainstay_mark": mark}
	}
	ours := map[string]bool{}
	for _, mark := range []string{"1", "2", "3", "4", "5"} {
		ours[f.AddImage(fleet.ImageName(id, mark), admins, says(id, mark))] = true
	}
	forged := f.AddImage(fleet.ImageName(id, "6"), "somebody", says(id, "6"))
	inherited := f.AddImage("my own image of it", admins, says(id, "5"))
	stock, err := client.Stock(t.Context(), clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	if got := stock.Images[id]; len(got) != len(ours) {
		t.Errorf("%d snapshots: %+v", len(got), got)
	}
	for _, i := range stock.Images[id] {
		if !ours[i.ID] || i.ID == forged || i.ID == inherited {
			t.Errorf("%+v is taken for a snapshot", i)
		}
	}
	s := subject{client: client, bound: 100, pass: func() { clock.Advance(250 * time.Millisecond) }}
	for _, other := range []string{forged, inherited} {
		s.refuses(t, fleet.CloudPrune, "image/"+other, "", "none that Mainstay made")
	}
	f.Break(falsecloud.Fault{Path: "/image/", Status: 503})
	seen := s.look(t, []string{"n1"}, id)
	if seen.Away != "" || seen.Looked["n1"] == 0 || seen.Servers[id].Host != "n1" || seen.Glance == "" {
		t.Errorf("away %q, Glance %q, looked %v", seen.Away, seen.Glance, seen.Looked)
	}
	if _, err := client.Stock(t.Context(), clock.Now()); err == nil || !strings.Contains(err.Error(), "list the snapshots") {
		t.Errorf("stock: %v", err)
	}
	if err := s.do(t, fleet.CloudRebuild, "server/"+id, stock.Images[id][0].ID); err == nil {
		t.Error("it is rebuilt from what nobody has seen to be whole")
	}
	if v := s.look(t, nil, id).Servers[id]; v.Task != "" {
		t.Errorf("Nova was asked: %+v", v)
	}
}

// TestStopped: an evacuation for a restore leaves the server stopped where this Nova can.
func TestStopped(t *testing.T) {
	for newest, want := range map[int]string{93: fleet.ServerActive, 100: fleet.ServerStopped} {
		f, clock, client := serve(t, falsecloud.Config{Newest: newest})
		f.AddCompute("n1", "", 8192)
		f.AddCompute("n2", "", 8192)
		f.LocalDisks("n1", "n2")
		id := f.AddServer(falsecloud.Server{Name: "s", Host: "n1"})
		f.Write(id, 7)
		s := subject{client: client, bound: 400, pass: func() { clock.Advance(250 * time.Millisecond) }}
		s.must(t, fleet.CloudSnapshot, "server/"+id, "1")
		image := s.imaged(t, id, "1")
		f.Write(id, 8)
		f.Kill("n1")
		s.must(t, fleet.CloudForceDown, "compute/n1", "")
		o := fleet.Order{Verb: fleet.VerbCloud, Step: fleet.CloudEvacuate, Thing: "server/" + id, With: "n2", Mark: fleet.MarkStopped}
		if err := client.Do(t.Context(), o, yes); err != nil {
			t.Fatal(err)
		}
		s.until(t, id, "there", at("n2", want))
		if f.Data(id) != 0 {
			t.Errorf("2.%d: evacuated, its disk has %d; Nova builds it from its image", newest, f.Data(id))
		}
		s.must(t, fleet.CloudRebuild, "server/"+id, image.ID)
		s.until(t, id, "restored", at("n2", want))
		if f.Data(id) != 7 {
			t.Errorf("2.%d: restored, its disk has %d", newest, f.Data(id))
		}
	}
}
