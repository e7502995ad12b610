package service

import (
	"slices"
	"strings"
	"testing"

	"mainstay/fleet"
)

// The words of drbdsetup events2 --now, as DRBD 8.4.11 with drbd-utils 9.22 says them
// (make lab-drbd shows them), with what changes left open.
func drbdEvents(suspended, disk, connection, peerDisk string) string {
	return `exists resource name:r0 role:Primary suspended:` + suspended + `
exists connection name:r0 conn-name:_remote_host connection:` + connection + ` role:Secondary
exists device name:r0 volume:0 minor:0 disk:` + disk + `
exists peer-device name:r0 conn-name:_remote_host volume:0 replication:Established peer-disk:` + peerDisk + ` resync-suspended:no
exists -
`
}

func TestReadMirror(t *testing.T) {
	for name, c := range map[string]struct {
		events string
		want   fleet.Mirror
		linked bool
	}{
		"even":                       {drbdEvents("no", "UpToDate", "Connected", "UpToDate"), fleet.Mirror{Even: "d2"}, true},
		"its peer catches up":        {drbdEvents("no", "UpToDate", "Connected", "Inconsistent"), fleet.Mirror{}, true},
		"it catches up":              {drbdEvents("no", "Inconsistent", "Connected", "UpToDate"), fleet.Mirror{Filling: true}, true},
		"its peer is lost":           {drbdEvents("fencing", "UpToDate", "NetworkFailure", "DUnknown"), fleet.Mirror{Lost: "d2", Frozen: true}, false},
		"frozen by a person too":     {drbdEvents("user,fencing", "UpToDate", "Connecting", "DUnknown"), fleet.Mirror{Lost: "d2", Frozen: true}, false},
		"frozen by a person":         {drbdEvents("user", "UpToDate", "Connected", "UpToDate"), fleet.Mirror{Even: "d2"}, true},
		"it goes on":                 {drbdEvents("no", "UpToDate", "Connecting", "Outdated"), fleet.Mirror{}, false},
		"apart":                      {drbdEvents("no", "UpToDate", "StandAlone", "DUnknown"), fleet.Mirror{Lost: "d2", Apart: true}, false},
		"even once, and not linked":  {drbdEvents("no", "UpToDate", "Connecting", "UpToDate"), fleet.Mirror{}, false},
		"it does not know its peers": {"exists resource name:r0 role:Secondary suspended:no\nexists -\n", fleet.Mirror{}, true},
	} {
		got, linked, err := readMirror([]byte(c.events), []string{"d2"})
		if err != nil || got != c.want || linked != c.linked {
			t.Errorf("%s: %+v %v %v", name, got, linked, err)
		}
	}
	if m, _, err := readMirror([]byte(strings.TrimSuffix(drbdEvents("no", "UpToDate", "Connected", "UpToDate"), "exists -\n")), []string{"d2"}); err == nil || m != (fleet.Mirror{}) {
		t.Errorf("a part of an answer is one: %+v", m)
	}
	three := drbdEvents("no", "UpToDate", "Connected", "UpToDate")
	three = strings.ReplaceAll(three, "_remote_host", "d3")
	if m, _, err := readMirror([]byte(three), []string{"d2", "d3"}); err != nil || m.Even != "d3" {
		t.Errorf("a peer that has a name: %+v %v", m, err)
	}
}

func TestReadGeneration(t *testing.T) {
	for gi, want := range map[string][2]string{
		"2A1F0000000000B1:0000000000000000:0000000000000000:0000000000000000:1:1:1:1:0:0:0\n": {"2A1F0000000000B0", ""},
		"2A1F0000000000B0:00000000000000C5:0:0:1:1\n":                                         {"2A1F0000000000B0", "00000000000000C4"},
	} {
		if data, fork, err := readGeneration([]byte(gi)); err != nil || data != want[0] || fork != want[1] {
			t.Errorf("%s: %q %q %v", gi, data, fork, err)
		}
	}
	if _, _, err := readGeneration([]byte("no such resource")); err == nil {
		t.Error("any word is taken for an identifier")
	}
}

// dumped is drbdadm dump-xml, as drbd-utils 9.22 says it for DRBD 8.4, of a resource with
// the given options, beside another.
func dumped(disk, net, handlers string) string {
	return `<config file="/etc/drbd.conf">
    <global><disable-ip-verification/></global>
    <common>
        <section name="net"><option name="protocol" value="C"/></section>
    </common>
    <resource name="r1" conf-file-line="/etc/drbd.conf:2">
        <host name="d1"/><host name="d9"/>
        <section name="net"><option name="protocol" value="A"/></section>
    </resource>
    <resource name="r0" conf-file-line="/etc/drbd.conf:3">
        <host name="d1"><volume vnr="0"><device minor="0">/dev/drbd0</device></volume><address family="ipv4" port="7788">10.9.0.1</address></host>
        <host name="d2"><volume vnr="0"><device minor="0">/dev/drbd0</device></volume><address family="ipv4" port="7788">10.9.0.2</address></host>
        <section name="net">` + net + `</section><section name="disk">` + disk + `</section><section name="handlers">` + handlers + `</section>
    </resource>
</config>
`
}

func TestExamineDRBD(t *testing.T) {
	fencing := `<option name="fencing" value="resource-and-stonith"/>`
	handler := `<option name="fence-peer" value="/usr/bin/mainstay fence-peer"/>`
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"as it should be":          {dumped(fencing, "", handler), nil},
		"as DRBD 9 has it":         {dumped("", fencing, handler), nil},
		"as it is packaged":        {dumped("", "", ""), []string{"fencing is \"\"", "its handler fence-peer is \"\""}},
		"as under Pacemaker":       {dumped(`<option name="fencing" value="resource-only"/>`, "", strings.ReplaceAll(handler, "/usr/bin/mainstay fence-peer", "/usr/lib/drbd/crm-fence-peer.sh")), []string{"fencing is \"resource-only\"", "crm-fence-peer.sh"}},
		"asynchronous":             {dumped(fencing, `<option name="protocol" value="A"/>`, handler), []string{"protocol A"}},
		"a side is thrown away":    {dumped(fencing, `<option name="after-sb-0pri" value="discard-zero-changes"/><option name="after-sb-2pri" value="disconnect"/>`, handler), []string{"after-sb-0pri discard-zero-changes"}},
		"both may write":           {dumped(fencing, `<option name="allow-two-primaries" value="yes"/>`, handler), []string{"allow-two-primaries"}},
		"its link may be down":     {strings.ReplaceAll(dumped(fencing, "", handler), "<disable-ip-verification/>", ""), []string{"disable-ip-verification"}},
		"as it is without a value": {dumped(fencing, `<option name="allow-two-primaries" value="no"/>`, handler), nil},
	} {
		conf, err := readDRBD([]byte(c.text), "r0", "d1")
		if err != nil || !slices.Equal(conf.peers, []string{"d2"}) {
			t.Errorf("%s: %v %v", name, conf.peers, err)
		}
		got := conf.lacks("r0")
		if len(got) != len(c.want) {
			t.Errorf("%s: %q", name, got)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(got[i], want) {
				t.Errorf("%s: %q, want %q", name, got[i], want)
			}
		}
	}
}
