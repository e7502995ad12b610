package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/gophercloud/gophercloud/v2"
	cloud "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
)

// ErrToken: Keystone does not know the token, or it has ended.
var ErrToken = errors.New("the token is not valid")

// Caller is whom a token stands for.
type Caller struct {
	User, Project string // their names
	Roles         []string
}

// Caller asks Keystone whose a token is, each time: a token can be revoked. Nova is not needed
// for that. ErrToken says that it is nobody's; any other error says nothing of the token. It
// stands in no error.
func (c *Client) Caller(ctx context.Context, token string) (Caller, error) {
	identity, err := c.keystone(ctx)
	if err != nil {
		return Caller{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	said := tokens.Get(ctx, identity, token)
	if said.Err != nil {
		c.forgetKeystone(said.Err)
		err := plain(said.Err)
		if status(err) == http.StatusNotFound {
			return Caller{}, ErrToken
		}
		return Caller{}, fmt.Errorf("ask Keystone whose a token is: %w", err)
	}
	user, err := said.ExtractUser()
	project, err2 := said.ExtractProject()
	roles, err3 := said.ExtractRoles()
	if err := errors.Join(err, err2, err3); err != nil {
		return Caller{}, fmt.Errorf("ask Keystone whose a token is: read its answer: %w", err)
	}
	var who Caller
	if user != nil {
		who.User = user.Name
	}
	if project != nil { // a token may be of a domain, or of no scope
		who.Project = project.Name
	}
	for _, r := range roles {
		who.Roles = append(who.Roles, r.Name)
	}
	return who, nil
}

// keystone returns a client of Keystone that is logged in.
func (c *Client) keystone(ctx context.Context) (*gophercloud.ServiceClient, error) {
	leave, err := c.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	c.mu.Lock()
	identity := c.identity
	c.mu.Unlock()
	if identity != nil {
		return identity, nil
	}
	provider, _, err := c.login(ctx)
	if err != nil {
		return nil, err
	}
	identity, err = cloud.NewIdentityV3(provider, gophercloud.EndpointOpts{})
	if err != nil {
		return nil, fmt.Errorf("log in to Keystone: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.identity = identity
	return identity, nil
}

// forgetKeystone logs out when Keystone does not take the credentials any more, as forget does.
func (c *Client) forgetKeystone(err error) {
	if again, ok := errors.AsType[*gophercloud.ErrUnableToReauthenticate](err); ok && status(plain(again.ErrReauth)) == http.StatusUnauthorized {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.identity = nil
	}
}
