package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// challenge is one way in that a registry offers in WWW-Authenticate (RFC 9110, 11.6.1).
type challenge struct {
	scheme string // in lower case
	params map[string]string
}

func challengesOf(h http.Header) []challenge {
	var all []challenge
	for _, v := range h.Values("WWW-Authenticate") {
		all = append(all, parseChallenges(v)...)
	}
	return all
}

// parseChallenges reads as much as makes sense: schemes, each followed by name=value pairs with commas between them, where a value
// may be quoted and hold commas.
func parseChallenges(s string) []challenge {
	var all []challenge
	for {
		s = strings.TrimLeft(s, " \t,")
		word := token(s)
		if word == "" {
			return all
		}
		s = s[len(word):]
		rest := strings.TrimLeft(s, " \t")
		if !strings.HasPrefix(rest, "=") || len(all) == 0 {
			if strings.HasPrefix(rest, "=") {
				return all // a parameter of nothing
			}
			all = append(all, challenge{strings.ToLower(word), map[string]string{}})
			continue
		}
		var value string
		if value, s = paramValue(strings.TrimLeft(rest[1:], " \t")); value != "" {
			all[len(all)-1].params[strings.ToLower(word)] = value
		}
	}
}

// paramValue takes a quoted or a bare value off the front of s.
func paramValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		n := strings.IndexAny(s, " \t,")
		if n < 0 {
			n = len(s)
		}
		return s[:n], s[n:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:]
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}

// token is the token (RFC 9110, 5.6.2) at the front of s.
func token(s string) string {
	n := 0
	for n < len(s) && s[n] > ' ' && s[n] < 0x7f && !strings.ContainsRune(`"(),/:;<=>?@[\]{}`, rune(s[n])) {
		n++
	}
	return s[:n]
}

// authorizer knows what to show a registry. Nothing is shown, and no credential is looked up, before the registry asks; then a
// token serves every request until it runs out.
type authorizer struct {
	source  *source
	helpers []string // registries.conf's credential-helpers
	scopes  []string // what a token should be good for besides what the registry asks for
	mounts  []string // and what would be of use, but may be denied

	mu      sync.Mutex // held while a token is fetched: all requests wait for the same one
	shown   string     // the value of Authorization
	expires time.Time  // of the token in it; zero if unknown
	bearer  *challenge // where tokens come from
	cred    *credential
}

// header is what a request shows. A token that has run out is renewed before it is refused.
func (a *authorizer) header(ctx context.Context) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bearer != nil && !a.expires.IsZero() && time.Now().After(a.expires) {
		if err := a.fetch(ctx); err != nil {
			return "", err
		}
	}
	return a.shown, nil
}

// meet finds what answers a registry that refused shown, or "" if it offers no way in that we know.
func (a *authorizer) meet(ctx context.Context, offered []challenge, shown string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.shown != shown {
		return a.shown, nil // somebody else has just met the same challenge
	}
	for i, c := range offered {
		if c.scheme == "bearer" {
			a.bearer = &offered[i]
			err := a.fetch(ctx)
			return a.shown, err
		}
	}
	for _, c := range offered {
		if c.scheme != "basic" || shown != "" {
			continue
		}
		cred, err := a.credential(ctx)
		if err != nil || cred.user == "" {
			return "", err
		}
		a.shown = cred.basic()
		return a.shown, nil
	}
	return "", nil
}

func (c *credential) basic() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.user+":"+c.password))
}

func (a *authorizer) credential(ctx context.Context) (*credential, error) {
	if a.cred == nil {
		c, err := lookup(ctx, a.source.host, a.source.repo, a.helpers)
		if err != nil {
			return nil, err
		}
		a.cred = &c
	}
	return a.cred, nil
}

const maxToken = 1 << 20

// fetch gets a token, for pulling from the repository or for what the registry or the caller says: by GET with the password, if there is
// one, or by POST with an identity token (distribution's docs/spec/auth/token.md and oauth.md).
func (a *authorizer) fetch(ctx context.Context) error {
	cred, err := a.credential(ctx)
	if err != nil {
		return err
	}
	if cred.bearer != "" {
		a.shown, a.expires = "Bearer "+cred.bearer, time.Time{}
		return nil
	}
	realm, err := url.Parse(a.bearer.params["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != "http" {
		return fmt.Errorf("%s: its tokens come from %.200q, which is no URL: %w", a.source.host, a.bearer.params["realm"], ErrCorrupt)
	}
	scopes := mergeScopes(strings.Fields(a.bearer.params["scope"]), a.scopes, a.mounts)
	if len(scopes) == 0 {
		scopes = []string{"repository:" + a.source.repo + ":pull"}
	}
	form := url.Values{"scope": scopes}
	if service := a.bearer.params["service"]; service != "" {
		form.Set("service", service)
	}
	begun := time.Now()
	resp, err := a.ask(ctx, realm, form, cred)
	if err != nil {
		return err
	}
	if denied := resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden; denied && len(a.mounts) > 0 {
		resp.Body.Close()
		a.mounts = nil
		return a.fetch(ctx)
	}
	defer resp.Body.Close()
	from := realm.Host + ", the token server of " + a.source.host + ","
	if resp.StatusCode != http.StatusOK {
		return answerOf(from, resp)
	}
	var got struct {
		Token   string `json:"token"`
		Access  string `json:"access_token"`
		Expires int    `json:"expires_in"`
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxToken))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &got); err != nil {
		return fmt.Errorf("%s answered with something that is no token: %w", from, ErrCorrupt)
	}
	if got.Token == "" {
		got.Token = got.Access
	}
	if got.Token == "" || strings.ContainsFunc(got.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("%s answered without a token: %w", from, ErrCorrupt)
	}
	a.shown, a.expires = "Bearer "+got.Token, time.Time{}
	if got.Expires > 0 {
		// Short of the end, so that it does not run out on the way; one that lives for a moment only is worth a moment.
		life := time.Duration(got.Expires) * time.Second
		a.expires = begun.Add(life - min(life/4, 10*time.Second))
	}
	return nil
}

// mergeScopes makes one list of scopes, TYPE:NAME:ACTION[,ACTION…], with each resource once (distribution's docs/spec/auth/scope.md).
func mergeScopes(lists ...[]string) (all []string) {
	for _, scope := range slices.Concat(lists...) {
		colon := strings.LastIndexByte(scope, ':')
		if colon < 0 {
			colon = len(scope)
		}
		i := slices.IndexFunc(all, func(s string) bool { return strings.HasPrefix(s, scope[:colon]+":") })
		if i < 0 {
			all = append(all, scope)
			continue
		}
		for _, action := range strings.Split(strings.TrimPrefix(scope[colon:], ":"), ",") {
			if have := all[i][colon+1:]; action != "" && !slices.Contains(strings.Split(have, ","), action) {
				all[i] += "," + action
			}
		}
	}
	return all
}

func (a *authorizer) ask(ctx context.Context, realm *url.URL, form url.Values, cred *credential) (*http.Response, error) {
	if cred.identity != "" {
		post := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {cred.identity}, "client_id": {"layerctl"},
			"service": form["service"], "scope": {strings.Join(form["scope"], " ")}}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(post.Encode()))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return a.source.http.Do(r)
	}
	u := *realm
	query := u.Query()
	for k, v := range form {
		query[k] = v
	}
	u.RawQuery = query.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if cred.user != "" {
		r.Header.Set("Authorization", cred.basic())
	}
	return a.source.http.Do(r)
}
