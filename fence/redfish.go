package fence

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

var redfish = Row{
	Name:  "redfish",
	About: "a BMC that speaks Redfish over HTTPS (most servers since 2016)",
	Params: []Param{
		{Name: "url", Required: true, Doc: "the BMC's scheme and host, such as https://bmc-c1"},
		{Name: "user", Required: true, Doc: "a user of the BMC that may operate power"},
		{Name: "password", Required: true, Secret: true, Doc: "that user's password"},
		{Name: "auth", Default: "basic", Doc: "basic: the password goes with each request; session: one login, for BMCs that take nothing else"},
		{Name: "ca_file", Doc: "PEM file of the authority that signed the BMC's certificate; without it the system's own"},
		{Name: "cert_sha256", Doc: "fingerprint of the BMC's very certificate, in place of an authority (self-signed BMCs)"},
		{Name: "insecure", Default: "false", Doc: "true: talk to whoever answers, and also over http; `mainstay check` names it each time"},
		{Name: "system", Doc: "Id of the computer system, for a BMC that manages several"},
		{Name: "deadline", Default: "5s", Doc: "how long one call may take, 100ms to 8s"},
	},
	New: newRedfish,
}

// redfishBMC is a small client: where is the system, what does it say, reset it.
type redfishBMC struct {
	base     *url.URL
	user     string
	password secret
	session  bool
	member   string // Id of the system, "" for the only one
	deadline time.Duration
	warnings []string
	http     *http.Client

	token, tokenAt string // of the session, when logged in
	at             string // path of the system, when known
}

func newRedfish(p *Params) (Driver, error) {
	b := &redfishBMC{
		base: p.base("url"), user: p.text("user"), password: p.secret("password"),
		session: p.choice("auth", "basic", "session") == "session",
		member:  p.text("system"), deadline: p.duration("deadline", 5*time.Second, 100*time.Millisecond, maxDeadline),
	}
	ca, pin, insecure := p.pool("ca_file"), p.fingerprint("cert_sha256"), p.flag("insecure")
	conf := &tls.Config{RootCAs: ca}
	switch {
	case insecure && (ca != nil || pin != nil):
		p.fail("insecure", "it contradicts ca_file and cert_sha256: remove it, or them")
	case ca != nil && pin != nil:
		p.fail("cert_sha256", "give ca_file or cert_sha256, not both")
	case b.base.Scheme == "http" && !insecure:
		p.fail("url", "http sends the password in clear: write https, or add insecure: true if you mean it")
	case insecure:
		p.warn("insecure: %s may be anybody, and anybody on the way may read the BMC's password: give ca_file or cert_sha256", b.base)
		conf.InsecureSkipVerify = true
	case pin != nil:
		// The chain says nothing about a self-signed certificate; the fingerprint
		// says all, and VerifyConnection runs whether or not the chain is checked.
		conf.InsecureSkipVerify = true
		conf.VerifyConnection = func(s tls.ConnectionState) error {
			sum := sha256.Sum256(s.PeerCertificates[0].Raw)
			if subtle.ConstantTimeCompare(sum[:], pin) != 1 {
				return &pinError{got: hex.EncodeToString(sum[:])}
			}
			return nil
		}
	}
	b.warnings = p.warnings
	b.http = &http.Client{
		Transport: &http.Transport{
			// No Proxy: a BMC is reached directly or not at all, whatever the environment says.
			TLSClientConfig: conf,
			IdleConnTimeout: 30 * time.Second,
		},
		// A redirect would carry the password to another place.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return b, nil
}

// pinError is a certificate other than the pinned one.
type pinError struct{ got string }

func (e *pinError) Error() string {
	return "its certificate is not the pinned one: its SHA-256 is " + e.got
}

func (b *redfishBMC) Device() string          { return "redfish " + b.base.String() }
func (b *redfishBMC) Deadline() time.Duration { return b.deadline }
func (b *redfishBMC) Warnings() []string      { return b.warnings }

// Close logs out, for a BMC has few sessions and keeps a forgotten one for half
// an hour.
func (b *redfishBMC) Close() {
	if b.token != "" {
		ctx, cancel := context.WithTimeout(context.Background(), min(b.deadline, 2*time.Second))
		defer cancel()
		// If it fails the BMC ends the session by itself, later.
		_, _ = b.once(ctx, "log out", http.MethodDelete, b.tokenAt, nil, nil)
		b.token = ""
	}
	b.http.CloseIdleConnections()
}

// system is what we read of a ComputerSystem.
type system struct {
	ID         string `json:"Id"`
	UUID       string
	PowerState string
	Actions    struct {
		Reset struct {
			Target  string   `json:"target"`
			Allowed []string `json:"ResetType@Redfish.AllowableValues"`
		} `json:"#ComputerSystem.Reset"`
	}
}

type reference struct {
	At string `json:"@odata.id"`
}

func (b *redfishBMC) Identity(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, b.deadline)
	defer cancel()
	sys, err := b.look(ctx, "ask for its UUID")
	return sys.UUID, err
}

func (b *redfishBMC) State(ctx context.Context) (Power, error) {
	const doing = "ask for its power"
	ctx, cancel := context.WithTimeout(ctx, b.deadline)
	defer cancel()
	sys, err := b.look(ctx, doing)
	if err != nil {
		return Unknown, err
	}
	switch sys.PowerState {
	case "On":
		return On, nil
	case "Off":
		return Off, nil
	}
	return Unknown, b.wrong(fleet.NoWord, doing, fmt.Errorf("it says PowerState %q, which is neither On nor Off", sys.PowerState))
}

func (b *redfishBMC) Off(ctx context.Context) error { return b.reset(ctx, "ForceOff", "Off") }
func (b *redfishBMC) On(ctx context.Context) error  { return b.reset(ctx, "On", "On") }

// reset orders kind. Some BMCs refuse an order that changes nothing, so after a
// refusal the state decides: the wanted one is as good as an acknowledgement.
func (b *redfishBMC) reset(ctx context.Context, kind, want string) error {
	doing := "order " + kind
	ctx, cancel := context.WithTimeout(ctx, b.deadline)
	defer cancel()
	sys, err := b.look(ctx, doing)
	if err != nil {
		return err
	}
	reset := sys.Actions.Reset
	if reset.Target == "" || len(reset.Allowed) > 0 && !slices.Contains(reset.Allowed, kind) {
		return b.wrong(fleet.Refused, doing, fmt.Errorf("it offers no such reset, only %q", reset.Allowed))
	}
	err = b.call(ctx, doing, http.MethodPost, reset.Target, map[string]string{"ResetType": kind}, nil)
	if OutcomeOf(err) != fleet.Refused || errors.Is(err, ErrCredentials) {
		return err
	}
	if now, lookErr := b.look(ctx, doing); lookErr == nil && now.PowerState == want {
		return nil
	}
	return err
}

// look reads the system, after finding it the first time.
func (b *redfishBMC) look(ctx context.Context, doing string) (system, error) {
	if b.at == "" {
		if err := b.find(ctx, doing); err != nil {
			return system{}, err
		}
	}
	var sys system
	err := b.call(ctx, doing, http.MethodGet, b.at, nil, &sys)
	return sys, err
}

func (b *redfishBMC) find(ctx context.Context, doing string) error {
	var root struct{ Systems reference }
	if err := b.call(ctx, doing, http.MethodGet, "/redfish/v1/", nil, &root); err != nil {
		return err
	}
	var list struct{ Members []reference }
	if err := b.call(ctx, doing, http.MethodGet, root.Systems.At, nil, &list); err != nil {
		return err
	}
	var ids []string
	for _, m := range list.Members {
		id := m.At[strings.LastIndex(m.At, "/")+1:]
		if id == b.member || b.member == "" && len(list.Members) == 1 {
			b.at = m.At
			return nil
		}
		ids = append(ids, id)
	}
	return b.wrong(fleet.Refused, doing, fmt.Errorf("it manages the systems %q: name the host's own with system: ID (now %q)", ids, b.member))
}

// call makes one request with our credentials. A session that the BMC has
// forgotten is renewed once; a 401 says surely that nothing was carried out.
func (b *redfishBMC) call(ctx context.Context, doing, method, path string, ask, answer any) error {
	fresh := false
	if b.session && b.token == "" {
		if err := b.login(ctx, doing); err != nil {
			return err
		}
		fresh = true
	}
	_, err := b.once(ctx, doing, method, path, ask, answer)
	if b.session && !fresh && errors.Is(err, ErrCredentials) {
		if err := b.login(ctx, doing); err != nil {
			return err
		}
		_, err = b.once(ctx, doing, method, path, ask, answer)
	}
	return err
}

func (b *redfishBMC) login(ctx context.Context, doing string) error {
	b.token = ""
	password, err := b.password.read()
	if err != nil {
		return b.wrong(fleet.Refused, doing, err)
	}
	header, err := b.once(ctx, doing+": log in", http.MethodPost, "/redfish/v1/SessionService/Sessions",
		map[string]string{"UserName": b.user, "Password": password}, nil)
	if err != nil {
		return err
	}
	at, err := url.Parse(header.Get("Location"))
	if err != nil || header.Get("X-Auth-Token") == "" || at.Path == "" {
		return b.wrong(fleet.Broken, doing, errors.New("its login gave no session; try auth: basic"))
	}
	b.token, b.tokenAt = header.Get("X-Auth-Token"), at.Path
	return nil
}

// most bounds an answer: a system is a few kilobytes.
const most = 1 << 20

// once makes one request and decodes its answer. It is the one place where
// errors are classed, and where secrets are taken out of them.
func (b *redfishBMC) once(ctx context.Context, doing, method, path string, ask, answer any) (http.Header, error) {
	// Only a path may be followed: a full URL in an answer could lead the password elsewhere.
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") {
		return nil, b.wrong(fleet.Broken, doing, fmt.Errorf("it points to %q, which is no path", path))
	}
	var body []byte
	if ask != nil {
		var err error
		if body, err = json.Marshal(ask); err != nil {
			return nil, b.wrong(fleet.Broken, doing, err)
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, b.base.String()+path, bytes.NewReader(body))
	if err != nil {
		return nil, b.wrong(fleet.Broken, doing, err)
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("OData-Version", "4.0")
	if ask != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	var hidden []string // what no error may show
	switch password, err := b.password.read(); {
	case err != nil:
		return nil, b.wrong(fleet.Refused, doing, err)
	case b.token != "":
		r.Header.Set("X-Auth-Token", b.token)
		hidden = []string{b.token, password}
	case !b.session:
		r.SetBasicAuth(b.user, password)
		hidden = []string{strings.TrimPrefix(r.Header.Get("Authorization"), "Basic "), password}
	default:
		hidden = []string{password}
	}
	hide := func(text string) string {
		for _, h := range hidden {
			text = strings.ReplaceAll(text, h, "[hidden]")
		}
		return text
	}

	a, err := b.http.Do(r)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the URL stands in the device's name already
		}
		return nil, b.wrong(transport(err), doing, timely(ctx, err, b.deadline))
	}
	defer a.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(a.Body, most))
	if err != nil {
		return nil, b.wrong(fleet.NoWord, doing, timely(ctx, err, b.deadline))
	}
	switch says := message(raw, hide); {
	case a.StatusCode == http.StatusUnauthorized, a.StatusCode == http.StatusForbidden:
		return nil, b.wrong(fleet.Refused, doing, fmt.Errorf("%w as %q: it answers %s%s", ErrCredentials, b.user, a.Status, says))
	case a.StatusCode >= 500 && method == http.MethodPost:
		return nil, b.wrong(fleet.NoWord, doing, fmt.Errorf("it answers %s%s; perhaps it acted", a.Status, says))
	case a.StatusCode >= 500:
		return nil, b.wrong(fleet.Broken, doing, fmt.Errorf("it answers %s%s", a.Status, says))
	case a.StatusCode >= 300:
		if to := a.Header.Get("Location"); to != "" {
			says = ", pointing to " + hide(to) + says
		}
		return nil, b.wrong(fleet.Refused, doing, fmt.Errorf("it answers %s%s", a.Status, says))
	}
	if answer != nil {
		if err := json.Unmarshal(raw, answer); err != nil {
			return nil, b.wrong(fleet.NoWord, doing, fmt.Errorf("its answer is no JSON that we can read (%d bytes)", len(raw)))
		}
	}
	return a.Header, nil
}

func (b *redfishBMC) wrong(o fleet.Outcome, doing string, err error) error {
	return &Error{Outcome: o, Device: b.Device(), Doing: doing, Err: err}
}

// transport classes an error of a request that got no answer. What never got as
// far as a request surely did nothing; everything else is unknown.
func transport(err error) fleet.Outcome {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fleet.NoWord
	}
	var (
		dial        *net.OpError
		name        *net.DNSError
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		record      tls.RecordHeaderError
		pin         *pinError
	)
	switch {
	case errors.As(err, &pin), errors.As(err, &certificate), errors.As(err, &authority), errors.As(err, &record):
		return fleet.Refused
	case errors.As(err, &name), errors.As(err, &dial) && dial.Op == "dial":
		return fleet.Broken
	}
	return fleet.NoWord
}

// timely says of a missed deadline how long it was.
func timely(ctx context.Context, err error, d time.Duration) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer in time (a call may take %s): %w", d, context.DeadlineExceeded)
	}
	return err
}

// message takes the sentence out of a Redfish error, with a colon before it. It
// hides secrets before it cuts, lest half of one stays.
func message(raw []byte, hide func(string) string) string {
	var e struct {
		Error struct {
			Message string                     `json:"message"`
			Info    []struct{ Message string } `json:"@Message.ExtendedInfo"`
		} `json:"error"`
	}
	_ = json.Unmarshal(raw, &e) // not every answer is one
	text := e.Error.Message
	if len(e.Error.Info) > 0 && e.Error.Info[0].Message != "" {
		text = e.Error.Info[0].Message
	}
	if text == "" {
		return ""
	}
	text = hide(text)
	if len(text) > 200 {
		text = text[:200] + "..."
	}
	return ": " + text
}
