package fence

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	"mainstay/fleet"
)

var ipmi = Row{
	Name:  "ipmi",
	About: "a BMC that speaks IPMI 2.0 over the network (RMCP+, UDP port 623)",
	Params: []Param{
		{Name: "address", Required: true, Doc: "the BMC's name or address, such as bmc-c1, with :PORT if it is not 623"},
		{Name: "user", Required: true, Doc: "a user of the BMC with the privilege operator or more, at most 16 characters"},
		{Name: "password", Required: true, Secret: true, Doc: "that user's password, at most 20 characters"},
		{Name: "cipher", Default: "17", Doc: "17: SHA-256 and AES-128; 3: SHA-1 and AES-128, for BMCs made before 2014"},
		{Name: "deadline", Default: "5s", Doc: "how long one call may take, 100ms to 8s"},
	},
	New: newIPMI,
}

// ipmiBMC keeps one session from the first call to Close: a BMC has few of them.
type ipmiBMC struct {
	host     string
	port     int
	user     string
	password secret
	cipher   types.CipherSuiteID
	deadline time.Duration
	warnings []string
	session  *client.Client // nil: not logged in
}

func newIPMI(p *Params) (Driver, error) {
	b := &ipmiBMC{
		user: p.text("user"), password: p.secret("password"), deadline: p.duration("deadline", 5*time.Second, 100*time.Millisecond, maxDeadline),
		cipher: types.CipherSuiteID17,
	}
	b.host, b.port = p.hostPort("address", 623)
	// One suite and no other: a client that goes through all of them ends, on a wrong
	// password, with suites that encrypt nothing.
	if p.choice("cipher", "17", "3") == "3" {
		b.cipher = types.CipherSuiteID3
	}
	if len(b.user) > maxIPMIUser {
		p.fail("user", "%q is longer than the %d characters of IPMI 2.0", b.user, maxIPMIUser)
	}
	b.warnings = p.warnings
	return b, nil
}

// Limits of IPMI 2.0, sections 22.28 and 22.30. A longer password is cut by some BMCs
// and refused by others.
const (
	maxIPMIUser     = 16
	maxIPMIPassword = 20
)

func (b *ipmiBMC) Device() string {
	return "ipmi " + net.JoinHostPort(b.host, strconv.Itoa(b.port))
}
func (b *ipmiBMC) Deadline() time.Duration { return b.deadline }
func (b *ipmiBMC) Warnings() []string      { return b.warnings }

// Close logs out. If that fails the BMC ends the session after a minute of silence.
func (b *ipmiBMC) Close() { b.leave() }

func (b *ipmiBMC) leave() {
	if b.session == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(b.deadline, time.Second))
	defer cancel()
	_ = b.session.Close(ctx)
	b.session = nil
}

func (b *ipmiBMC) Identity(ctx context.Context) (id string, err error) {
	err = b.call(ctx, "ask for its UUID", func(ctx context.Context, c *client.Client) error {
		answer, err := c.GetSystemGUID(ctx)
		if err == nil {
			id = formatUUID(reversed(answer.GUID))
		}
		return err
	})
	return id, err
}

func (b *ipmiBMC) State(ctx context.Context) (Power, error) {
	state := Unknown
	err := b.call(ctx, "ask for its power", func(ctx context.Context, c *client.Client) error {
		answer, err := c.GetChassisStatus(ctx)
		if err != nil {
			return err
		}
		if state = Off; answer.PowerIsOn {
			state = On
		}
		return nil
	})
	return state, err
}

// Off orders chassis control 0, "power down": at once, without asking the system.
func (b *ipmiBMC) Off(ctx context.Context) error {
	return b.control(ctx, "order power off", chassis.ChassisControlPowerDown, Off)
}

// On orders chassis control 1.
func (b *ipmiBMC) On(ctx context.Context) error {
	return b.control(ctx, "order power on", chassis.ChassisControlPowerUp, On)
}

// control orders. Some BMCs refuse an order that changes nothing (D5h, "not
// supported in present state"), so after a refusal the state decides.
func (b *ipmiBMC) control(ctx context.Context, doing string, deed chassis.ChassisControl, want Power) error {
	err := b.call(ctx, doing, func(ctx context.Context, c *client.Client) error {
		_, err := c.ChassisControl(ctx, deed)
		return err
	})
	if OutcomeOf(err) == fleet.Refused && !errors.Is(err, ErrCredentials) {
		if now, stateErr := b.State(ctx); stateErr == nil && now == want {
			return nil
		}
	}
	return err
}

// call asks within a session. What failed is asked again by the caller, and then in
// a new session: an old one that the BMC has ended is met with silence.
func (b *ipmiBMC) call(ctx context.Context, doing string, ask func(context.Context, *client.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, b.deadline)
	defer cancel()
	if b.session == nil {
		if err := b.login(ctx); err != nil {
			return b.wrong(ctx, doing+": log in", err)
		}
	}
	err := ask(ctx, b.session)
	if err != nil {
		b.leave()
		return b.wrong(ctx, doing, err)
	}
	return nil
}

// login opens a session, anew from a port of its own if an answer is missing: the
// steps of a login carry no number, and one that is sent twice is answered twice, by
// which the next step would be misled.
func (b *ipmiBMC) login(ctx context.Context) error {
	for {
		err := b.enter(ctx)
		if err == nil {
			return nil
		}
		b.leave()
		if b.class(err) != fleet.NoWord || ctx.Err() != nil {
			return err
		}
	}
}

// enter goes through the steps of a session itself: the library's own Connect hides
// which one failed, and a wrong password must be told from silence.
func (b *ipmiBMC) enter(ctx context.Context) error {
	password, err := b.password.read()
	if err != nil {
		return &Error{Outcome: fleet.Refused, Err: err}
	}
	if len(password) > maxIPMIPassword {
		return &Error{Outcome: fleet.Refused, Err: fmt.Errorf("%w: the password is longer than the %d characters of IPMI 2.0", ErrCredentials, maxIPMIPassword)}
	}
	c, err := client.NewClient(b.host, b.port, b.user, password)
	if err != nil {
		return &Error{Outcome: fleet.Refused, Err: err}
	}
	c.WithCipherSuiteID(b.cipher).WithMaxPrivilegeLevel(types.PrivilegeLevelOperator).WithTimeout(b.deadline / 3).WithRetry(0)
	b.session = c
	for _, step := range []func() error{
		func() error {
			_, err := c.OpenSession(ctx)
			if err != nil && strings.Contains(err.Error(), "too short") {
				// A refusal may leave out all but its status, and the library wants the rest.
				err = types.NewRmcpStatusError(types.RmcpStatusCodeNoCipherSuiteMatch)
			}
			return err
		},
		func() error { _, err := c.RAKPMessage1(ctx); return err },
		func() error { _, err := c.RAKPMessage3(ctx); return err },
		func() error { _, err := c.SetSessionPrivilegeLevel(ctx, types.PrivilegeLevelOperator); return err },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	c.WithTimeout(b.deadline / 4).WithRetry(3) // questions within a session are numbered
	return nil
}

func (b *ipmiBMC) class(err error) fleet.Outcome {
	return OutcomeOf(b.wrong(context.Background(), "", err))
}

// wrong classes an error. What never got as far as an order surely did nothing.
func (b *ipmiBMC) wrong(ctx context.Context, doing string, err error) error {
	out := &Error{Outcome: fleet.NoWord, Device: b.Device(), Doing: doing, Err: err}
	var (
		own    *Error
		status *types.RmcpStatusError
		code   *types.ResponseError
		name   *net.DNSError
	)
	switch {
	case errors.As(err, &own):
		out.Outcome, out.Err = own.Outcome, own.Err
	case errors.Is(err, client.ErrRAKPAuthentication):
		out.Outcome, out.Err = fleet.Refused, fmt.Errorf("%w as %q", ErrCredentials, b.user)
	case errors.As(err, &status):
		out.Outcome = fleet.Refused
		switch status.StatusCode() {
		case types.RmcpStatusCodeNoResToCreateSess, types.RmcpStatusCodeNoResToCreateSessAtRole:
			out.Outcome, out.Err = fleet.Broken, fmt.Errorf("all its sessions are taken: %w", err)
		case types.RmcpStatusCodeUnauthorizedName, types.RmcpStatusCodeUnauthorizedRoleOfPriLevel, types.RmcpStatusCodeInvalidRole,
			types.RmcpStatusCodeInvalidNameLength, types.RmcpStatusCodeInvalidIntegrityCheckValue:
			out.Err = fmt.Errorf("%w as %q with the privilege operator: %w", ErrCredentials, b.user, err)
		case types.RmcpStatusCodeNoCipherSuiteMatch, types.RmcpStatusCodeInvalidAuthAlg, types.RmcpStatusCodeInvalidIntegrityAlg, types.RmcpStatusCodeInvalidConfidentAlg,
			types.RmcpStatusCodeNoMatchingAuthPayload, types.RmcpStatusCodeNoMatchingIntegrityPayload:
			out.Err = fmt.Errorf("it does not take cipher suite %d (cipher: 3 is for old BMCs): %w", b.cipher, err)
		}
	case errors.As(err, &code):
		out.Outcome = fleet.Refused
		switch code.CompletionCode() {
		case types.CodeInsufficientPrivilege:
			out.Err = fmt.Errorf("%w: %q lacks the privilege operator: %w", ErrCredentials, b.user, err)
		case types.CodeNodeBusy, types.CodeOutOfSpace, types.CodeDestinationUnavailable:
			out.Outcome = fleet.Broken
		case types.CodeProcessTimeout, types.CodeUnspecifiedError:
			out.Outcome, out.Err = fleet.NoWord, fmt.Errorf("%w; perhaps it acted", err)
		}
	case errors.As(err, &name) && !name.IsTimeout, errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		out.Outcome = fleet.Broken
	default:
		out.Err = timely(ctx, err, b.deadline)
	}
	return out
}

// hostPort reads a name or an address, with or without a port.
func (p *Params) hostPort(key string, port int) (string, int) {
	text := p.raw[key]
	if text == "" {
		return "", port
	}
	host, number, err := net.SplitHostPort(text)
	if err != nil {
		host, number = strings.Trim(text, "[]"), strconv.Itoa(port)
	}
	n, err := strconv.Atoi(number)
	switch {
	case strings.ContainsAny(text, "{}"):
		p.fail(key, "it holds a placeholder that is not known; {name}, for the host's name, is the only one")
	case err != nil || n < 1 || n > 65535 || host == "" || strings.ContainsAny(host, "/@ ") || strings.Contains(host, ":") && net.ParseIP(host) == nil:
		p.fail(key, "%q is no name or address; right would be bmc-c1, 10.0.9.11 or bmc-c1:623", text)
	default:
		return host, n
	}
	return "", port
}
