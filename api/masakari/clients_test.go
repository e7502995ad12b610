package masakari_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// Real clients: OpenStack's command with python-masakariclient, and masakari-monitors.
//
//	apt-get install python3-openstackclient python3-masakariclient python3-masakari-monitors
//	go test ./api/masakari -count=1 -timeout 0 -v -run RealClients -clients /usr/lib/python3/dist-packages
//
// make lab-masakari-clients does so with Debian's packages in a folder of their own. Those of
// Debian 12 know no vmoves; with -newer the library of a Debian 13 asks for them, whose tree
// make lab SUITE=trixie leaves in /var/cache/mainstay-lab.
var (
	clients = flag.String("clients", "", "where the Python modules of OpenStack's clients are, a PYTHONPATH")
	newer   = flag.String("newer", "", "tree of a newer Debian with python3-openstacksdk")
)

// python runs a program of theirs. Its environment has the way to Keystone.
func (s *site) python(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "python3", args...)
	c.Env = append(os.Environ(), "PYTHONPATH="+*clients, "PYTHONWARNINGS=ignore", "OS_AUTH_URL="+s.auth, "OS_USERNAME=admin", "OS_PASSWORD=secret", "OS_PROJECT_NAME=admin",
		"OS_USER_DOMAIN_ID=default", "OS_PROJECT_DOMAIN_ID=default", "OS_IDENTITY_API_VERSION=3", "OS_REGION_NAME=RegionOne")
	var out, bad bytes.Buffer
	c.Stdout, c.Stderr = &out, &bad
	err := c.Run()
	if err != nil {
		err = fmt.Errorf("python3 %s: %w: %s", strings.Join(args, " "), err, bad.String())
	}
	return out.String(), err
}

// shell runs one of OpenStack's commands, and reads what it prints.
func shell[T any](t *testing.T, s *site, args ...string) (out T) {
	t.Helper()
	text, err := s.python(t, append(append([]string{"-m", "openstackclient.shell"}, args...), "-f", "json")...)
	if err == nil {
		err = json.Unmarshal([]byte(text), &out)
	}
	if err != nil {
		t.Fatalf("openstack %s: %v\n%s", strings.Join(args, " "), err, text)
	}
	t.Logf("openstack %s: %s", strings.Join(args, " "), strings.Join(strings.Fields(text), " "))
	return out
}

func TestRealClients(t *testing.T) {
	if *clients == "" {
		return // see there
	}
	s := newSite(t)
	type row = map[string]any
	list := shell[[]row](t, s, "segment", "list")
	if len(list) != 1 || list[0]["name"] != "beijing" || list[0]["is_enabled"] != true {
		t.Fatal(list)
	}
	one := shell[row](t, s, "segment", "create", "rack1", "auto", "COMPUTE", "--is_enabled", "True", "--description", "by the window")
	if one["name"] != "rack1" || one["recovery_method"] != "auto" || one["is_enabled"] != true {
		t.Fatal(one)
	}
	uuid := one["uuid"]
	one = shell[row](t, s, "segment", "create", "rack1", "auto", "COMPUTE")
	if one["uuid"] != uuid {
		t.Errorf("created twice: %v", one)
	}
	one = shell[row](t, s, "segment", "show", "rack1")
	if one["uuid"] != uuid || one["description"] != "by the window" {
		t.Error(one)
	}
	one = shell[row](t, s, "segment", "host", "create", "n1", "COMPUTE", "SSH", "rack1")
	if one["name"] != "n1" || one["on_maintenance"] != false || one["failover_segment_id"] != uuid {
		t.Fatal(one)
	}
	list = shell[[]row](t, s, "segment", "host", "list", "beijing", "--sort", "name:asc")
	if of(list, "name") != "n2 n3" {
		t.Error(list)
	}
	one = shell[row](t, s, "segment", "host", "update", "rack1", "n1", "--on_maintenance", "True")
	if one["on_maintenance"] != true || s.State().Wishes["maintenance-n1"].Host != "n1" {
		t.Errorf("%v, %+v", one, s.State().Wishes)
	}
	one = shell[row](t, s, "segment", "host", "update", "rack1", "n1", "--on_maintenance", "False")
	if one["on_maintenance"] != false || len(s.State().Wishes) != 0 {
		t.Error(one, s.State().Wishes)
	}
	one = shell[row](t, s, "segment", "host", "show", "rack1", "n1")
	if one["control_attributes"] != "SSH" || one["reserved"] != false {
		t.Error(one)
	}
	if text, err := s.python(t, "-m", "openstackclient.shell", "segment", "host", "delete", "rack1", "n1"); err == nil || !strings.Contains(err.Error()+text, "compute of the site's file") {
		t.Errorf("a host of the site's file was deleted: %v %s", err, text)
	}
	one = shell[row](t, s, "segment", "update", "rack1", "--name", "row1")
	if one["name"] != "row1" {
		t.Error(one)
	}
	one = shell[row](t, s, "notification", "create", "COMPUTE_HOST", "n1", time.Now().UTC().Format("2006-01-02T15:04:05.000"), `{"event": "STOPPED", "host_status": "NORMAL", "cluster_status": "OFFLINE"}`)
	id := fmt.Sprint(one["notification_uuid"])
	if one["status"] != "new" {
		t.Fatal(one)
	}
	s.change(func(w *fleet.World) {
		w.State.Proofs["n1"] = fleet.Proof{Host: "n1", Boot: "b1", Evidence: "off twice"}
		w.State.Evacuations["s1"] = fleet.Evacuation{Server: "s1", Name: "web", From: "n1", Boot: "b1", To: "n2", Try: 1, At: w.Wall}
	})
	one = shell[row](t, s, "--os-ha-api-version", "1.2", "notification", "show", id)
	if one["status"] != "running" || !strings.Contains(fmt.Sprint(one["recovery_workflow_details"]), "off twice") {
		t.Error(one)
	}

	if *newer != "" {
		c := exec.CommandContext(t.Context(), "chroot", *newer, "python3", "-B", "-c", "import openstack\nc = openstack.connect(auth_url='"+s.auth+"', username='admin', password='secret', project_name='admin', user_domain_id='default', project_domain_id='default', region_name='RegionOne')\n"+
			"n = '"+id+"'\nfor m in c.instance_ha.vmoves(n):\n    g = c.instance_ha.get_vmove(m.uuid, n)\n    print(g.server_id, g.server_name, g.type, g.source_host, g.dest_host, g.status, g.message)\n")
		out, err := c.CombinedOutput()
		t.Logf("vmoves: %s", out)
		if err != nil || !strings.Contains(string(out), "s1 web evacuation n1 n2 ongoing") {
			t.Error(err)
		}
	}

	// masakari-monitors: its own code from the event on to the API
	conf := filepath.Join(t.TempDir(), "masakarimonitors.conf")
	processes := filepath.Join(t.TempDir(), "process_list.yaml")
	for file, text := range map[string]string{
		conf: fmt.Sprintf("[api]\nauth_type = password\nauth_url = %s\nusername = admin\npassword = secret\nproject_name = admin\nuser_domain_id = default\nproject_domain_id = default\nregion = RegionOne\napi_interface = public\n"+
			"[host]\ndisable_ipmi_check = true\n[process]\nprocess_list_path = %s\ncheck_interval = 1\nrestart_retries = 1\nrestart_interval = 1\n", s.auth, processes),
		processes: "- process_name: nova-compute-that-is-not-there\n  start_command: \"false\"\n  pre_start_command:\n  post_start_command:\n  restart_command: \"false\"\n  pre_restart_command:\n  post_restart_command:\n  run_as_root: False\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	begin := "import socket, sys; socket.gethostname = lambda: 'n2'\nfrom masakarimonitors import config, utils\nconfig.parse_args(['x', '--config-file', '" + conf + "'])\nutils.monkey_patch()\n"
	if _, err := s.python(t, "-c", begin+"from masakarimonitors.hostmonitor.host_handler.handle_host import HandleHost\nh = HandleHost()\nh.notifier.send_notification(1, 1, h._make_event('n3', 'offline'))\n"); err != nil {
		t.Error(err)
	}
	if _, err := s.python(t, "-c", begin+"from oslo_utils import timeutils\nfrom masakarimonitors.instancemonitor.libvirt_handler.callback import Callback\n"+
		"Callback().libvirt_event_callback('LIFECYCLE', 'STOPPED_FAILED', 'b9837317-a5b8-44f4-93b4-45500c562bb8', 'VM', 'n2', timeutils.utcnow())\n"); err != nil {
		t.Error(err)
	}
	// and one of its daemons as it is, until it has said what it has to say
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	daemon := exec.CommandContext(ctx, "python3", "-c", "import socket, sys; socket.gethostname = lambda: 'n2'\nsys.argv = ['masakari-processmonitor', '--config-file', '"+conf+"']\nfrom masakarimonitors.cmd.processmonitor import main\nmain()\n")
	daemon.Env = append(os.Environ(), "PYTHONPATH="+*clients, "PYTHONWARNINGS=ignore")
	var said bytes.Buffer
	daemon.Stdout, daemon.Stderr = &said, &said
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = daemon.Wait() }()
	defer cancel()
	for {
		if got := s.ask(t, "GET /v1/notifications?type=PROCESS", "").list("notifications"); len(got) == 1 {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("masakari-processmonitor sends nothing: %s", said.String())
		case <-time.After(200 * time.Millisecond):
		}
	}
	list = shell[[]row](t, s, "notification", "list", "--sort", "type:asc")
	if of(list, "type") != "COMPUTE_HOST COMPUTE_HOST PROCESS VM" {
		t.Error(list)
	}
	list = shell[[]row](t, s, "notification", "list", "--filters", "type=VM", "--limit", "1")
	if len(list) != 1 || !strings.Contains(fmt.Sprint(list[0]["payload"]), "STOPPED_FAILED") {
		t.Error(list)
	}
	t.Logf("masakari-processmonitor said:\n%s", said.String())
}
