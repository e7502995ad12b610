package vip

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// An address is carried by an interface that is up and has a carrier, and by no other.
func TestCarried(t *testing.T) {
	a := newNetwork(t, 1)[0]
	s := a.open(nil)
	if err := a.rt.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "cable"}, PeerName: "plug"}); err != nil {
		t.Fatal(err)
	}
	a.up("cable")
	a.up("plug")
	cable, err := a.rt.LinkByName("cable")
	if err != nil {
		t.Fatal(err)
	}
	plug, err := a.rt.LinkByName("plug")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.rt.AddrAdd(cable, &netlink.Addr{IPNet: prefix(netip.MustParseAddr("10.78.0.1"), 24)}); err != nil {
		t.Fatal(err)
	}
	own4, own6, there, none := netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd00:77::1"), netip.MustParseAddr("10.78.0.1"), netip.MustParseAddr("10.77.0.9")
	carried := func(what string, want bool) {
		t.Helper()
		eventually(t, what, func() bool {
			got, err := s.Carried([]netip.Addr{own4, own6, there, none})
			if err != nil {
				t.Fatal(err)
			}
			return got[own4] && got[own6] && !got[none] && got[there] == want
		})
	}
	carried("a carrier", true)
	if err := a.rt.LinkSetDown(plug); err != nil {
		t.Fatal(err)
	}
	carried("the loss of the carrier", false)
	a.up("plug")
	carried("the carrier's return", true)
	if err := a.rt.LinkSetDown(cable); err != nil {
		t.Fatal(err)
	}
	carried("an interface that is down", false)
	if err := a.rt.LinkDel(cable); err != nil {
		t.Fatal(err)
	}
	carried("an interface that is gone", false)
}
