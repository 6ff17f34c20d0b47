package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

// place is where a repository is to be found.
type place struct {
	location string // HOST[:PORT]/PATH
	insecure bool   // without TLS, or with a certificate that nobody vouches for
	mirror   bool
}

// source is a place that is spoken to.
type source struct {
	host string // as the user and the files write it
	repo string
	http *http.Client
	auth *authorizer
	patience

	mu       sync.Mutex
	scheme   string // settled by the first answer
	plain    bool   // HTTP is tried where TLS is not spoken
	clear    bool   // and nobody minds what goes over the network in the clear
	answered bool
}

// dockerHub is the registry whose name is not the name of its host.
const (
	dockerHub    = "docker.io"
	dockerHubAPI = "registry-1.docker.io"
)

func newSource(p place, o Options, set settings) (*source, error) {
	host, repo, found := strings.Cut(p.location, "/")
	if !found || host == "" || repo == "" {
		return nil, fmt.Errorf("%s is no repository on a host: %w", p.location, ErrConfig)
	}
	s := &source{host: host, repo: repo, scheme: "https"}
	s.clear = p.insecure || o.PlainHTTP && !p.mirror
	s.plain = s.clear || loopback(hostname(host))
	s.patience = patience{tries: tries, wait: firstWait, notice: o.Notice, host: host}
	if p.mirror {
		s.tries = 1
	}
	if o.PlainHTTP && !p.mirror {
		s.scheme = "http"
	}
	t, err := newTransport(s, p.insecure, set.stall)
	if err != nil {
		return nil, err
	}
	s.http = &http.Client{Transport: t, CheckRedirect: checkRedirect}
	s.auth = &authorizer{source: s, helpers: set.conf.Helpers}
	return s, nil
}

func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

func loopback(name string) bool {
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

// apiHost is the host that is connected to.
func (s *source) apiHost() string {
	if s.host == dockerHub {
		return dockerHubAPI
	}
	return s.host
}

// request is something that is asked of a registry.
type request struct {
	method string
	path   string   // below the repository
	query  string   // encoded
	at     *url.URL // instead of path: where the registry wants an upload to go on
	header http.Header
	size   int64                         // of the body
	body   func() (io.ReadCloser, error) // opens it, whenever it is sent; nil for none
}

// get asks for something below the repository, as often as patience allows. use is given each answer that is as it should be, and
// closes its body; an error of its own is judged like one of the network.
func (s *source) get(ctx context.Context, method, path string, header http.Header, use func(*http.Response) error) error {
	return s.do(ctx, &request{method: method, path: path, header: header}, use)
}

// do is get for any request.
func (s *source) do(ctx context.Context, r *request, use func(*http.Response) error) error {
	p := s.patience
	for n := 1; ; n++ {
		err := s.once(ctx, r, use)
		if err == nil {
			return nil
		}
		if !p.again(ctx, n, err, s.hasAnswered()) {
			return explain(s.host, err)
		}
	}
}

// once asks once.
func (s *source) once(ctx context.Context, r *request, use func(*http.Response) error) error {
	resp, err := s.send(ctx, r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.answered = true
	s.mu.Unlock()
	return use(resp)
}

func (s *source) hasAnswered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answered
}

// send asks once, with what the registry wants to see of us.
func (s *source) send(ctx context.Context, r *request) (*http.Response, error) {
	shown, err := s.auth.header(ctx)
	if err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		resp, err := s.sendPlainToo(ctx, r, shown)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode < 300 {
			return resp, nil
		}
		if from := resp.Request.URL.Host; from != s.apiHost() {
			return nil, answerOf(from+", where "+s.host+" sends us,", resp)
		}
		if resp.StatusCode != http.StatusUnauthorized || !first {
			return nil, answerOf(s.host, resp)
		}
		a := answerOf(s.host, resp)
		if shown, err = s.auth.meet(ctx, challengesOf(resp.Header), shown); err != nil {
			return nil, err
		}
		if shown == "" {
			return nil, a
		}
	}
}

// sendPlainToo sends over TLS, or in the clear where the other side does not speak it and that is allowed.
func (s *source) sendPlainToo(ctx context.Context, r *request, shown string) (*http.Response, error) {
	for {
		s.mu.Lock()
		scheme := s.scheme
		s.mu.Unlock()
		u := url.URL{Scheme: scheme, Host: s.apiHost(), Path: "/v2/" + s.repo + "/" + r.path, RawQuery: r.query}
		if r.at != nil {
			u = *r.at
			if u.Host == s.apiHost() {
				u.Scheme = scheme // behind a proxy that speaks TLS for it, a registry may not know that it is spoken to so
			}
		}
		req, err := http.NewRequestWithContext(ctx, r.method, u.String(), nil)
		if err != nil {
			return nil, err
		}
		for k, v := range r.header {
			req.Header[k] = v
		}
		if shown != "" && u.Host == s.apiHost() {
			req.Header.Set("Authorization", shown)
		}
		if r.body != nil && r.size > 0 {
			if req.Body, err = r.body(); err != nil {
				return nil, err
			}
			req.ContentLength, req.GetBody = r.size, r.body
		}
		resp, err := s.http.Do(req)
		if err == nil || scheme == "http" || !s.plain || !noTLS(err) {
			return resp, err
		}
		s.mu.Lock()
		s.scheme = "http"
		s.mu.Unlock()
	}
}

// noTLS says whether err is what comes of speaking TLS to somebody who does not.
func noTLS(err error) bool {
	return errors.Is(err, http.ErrSchemeMismatch) || strings.Contains(err.Error(), "first record does not look like a TLS handshake")
}

// checkRedirect lets a registry send us to where its blobs are. What we showed it is for nobody else: another port is another server,
// which net/http does not think.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) > 10 {
		return fmt.Errorf("%s sends us from one place to the next: %w", via[0].URL.Host, ErrUnavailable)
	}
	if r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
		r.Header.Del("Authorization")
	}
	// A path of a registry's own may be a secret, as a signed one is.
	r.Header.Del("Referer")
	return nil
}

// ours says of a host whether it is this machine or its cable: what answers there trusts whoever can reach it.
func ours(name string) bool {
	ip := net.ParseIP(name)
	return loopback(name) || ip != nil && (ip.IsLinkLocalUnicast() || ip.IsUnspecified())
}

// transport carries requests to the source's host and to where it sends us, and watches what may go where.
type transport struct {
	source   *source
	insecure bool
	stall    time.Duration

	mu    sync.Mutex
	hosts map[string]*http.Transport
}

func newTransport(s *source, insecure bool, stall time.Duration) (*transport, error) {
	t := &transport{source: s, insecure: insecure, stall: stall, hosts: map[string]*http.Transport{}}
	_, err := t.to(s.apiHost())
	return t, err
}

func (t *transport) to(host string) (*http.Transport, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.hosts[host]; h != nil {
		return h, nil
	}
	conf, err := t.tlsFor(host)
	if err != nil {
		return nil, err
	}
	h := &http.Transport{
		TLSClientConfig:     conf,
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 15 * time.Second,
		DisableCompression:  true, // the bytes as they are: a digest is of them
		// A connection that is dead under HTTP/2 would be used for the next request, too.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
	t.hosts[host] = h
	return h, nil
}

// RoundTrip sends one request.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	own := r.URL.Host == t.source.apiHost()
	if r.URL.Scheme != "https" && !loopback(r.URL.Hostname()) && !t.source.clear {
		return nil, fmt.Errorf("%s would be spoken to without TLS: %w", r.URL.Host, ErrUnavailable)
	}
	if !own && ours(r.URL.Hostname()) && !ours(hostname(t.source.host)) {
		return nil, fmt.Errorf("%s sends us to %s, which is this machine's own: %w", t.source.host, r.URL.Host, ErrCorrupt)
	}
	next, err := t.to(r.URL.Host)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(r.Context())
	r = r.WithContext(ctx)
	r.Header.Set("User-Agent", "layerctl")
	begun := time.Now()
	w := t.watch(r, cancel)
	resp, err := next.RoundTrip(r)
	if late := w.stop(); late != nil {
		if err == nil {
			resp.Body.Close()
		}
		err = late
	}
	if err != nil {
		cancel()
		if r.URL.Scheme == "https" && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
			if why := refusal(begun, next, r); why != nil {
				return nil, why
			}
		}
		return nil, err
	}
	if slog.Default().Enabled(ctx, slog.LevelDebug) {
		// Without the query: a token's or a redirected blob's may hold a secret.
		slog.Debug("request", "method", r.Method, "url", r.URL.Scheme+"://"+r.URL.Host+r.URL.Path, "status", resp.StatusCode,
			"took", time.Since(begun).Round(time.Microsecond))
	}
	resp.Body = guard(resp.Body, t.stall, cancel)
	return resp, nil
}

// refusal asks a host that closed a TLS connection for its reason, and returns nil if it gives none. A server that speaks TLS 1.3 looks at
// the client's certificate when the client has done its part of the handshake and is sending already (RFC 8446, section 4.4.2.4): the
// request then may fail to be written before the alert is read, and the reset throws the alert away. Who sends nothing gets to read it.
func refusal(begun time.Time, via *http.Transport, r *http.Request) error {
	if p, err := via.Proxy(r); p != nil || err != nil || time.Since(begun) > via.TLSHandshakeTimeout {
		return nil // a tunnel of the proxy's, or a connection that served for a while
	}
	addr := r.URL.Host
	if r.URL.Port() == "" {
		addr = net.JoinHostPort(r.URL.Hostname(), "443")
	}
	c, err := (&tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: via.TLSClientConfig}).Dial("tcp", addr)
	if err != nil {
		return alerted(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	_, err = c.Read(make([]byte, 1))
	return alerted(err)
}

// alerted returns err if it is an alert of the other side's, and nil for any other.
func alerted(err error) error {
	if err != nil && strings.Contains(err.Error(), "remote error: tls: ") { // crypto/tls's type for it has no name
		return err
	}
	return nil
}

var _ io.ReadCloser = (*guarded)(nil)
