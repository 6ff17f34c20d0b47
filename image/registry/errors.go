package registry

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// What a registry's answer comes to; test with errors.Is.
var (
	ErrNotFound     = errors.New("not found in the registry")
	ErrUnauthorized = errors.New("the registry refused access")
	ErrUnavailable  = errors.New("registry unavailable")
	ErrCorrupt      = errors.New("the registry sent something else than was asked for")
	ErrRefused      = errors.New("the registry refused it")
	ErrBlocked      = errors.New("blocked")
	ErrConfig       = errors.New("the configuration is wrong")
)

// answer is an answer with a status that nobody hoped for.
type answer struct {
	host  string
	code  int
	what  string        // in the words of the server, where it has some
	codes []string      // of its errors (distribution-spec, "Error Codes")
	after time.Duration // how long it wants to be left alone; negative if it does not say
	sent  bool          // it was to take something
}

func (a *answer) Error() string {
	s := fmt.Sprintf("%s answered %d, %s", a.host, a.code, a.what)
	if a.after > longestWait {
		s += fmt.Sprintf(", and asks to be left alone for %s", a.after)
	}
	return s + ": " + a.Unwrap().Error()
}

// Unwrap is the kind of the answer.
func (a *answer) Unwrap() error {
	switch a.code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return ErrUnauthorized
	case http.StatusNotFound:
		return ErrNotFound
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return ErrUnavailable
	}
	if a.sent && a.code < 500 {
		return ErrRefused
	}
	return ErrUnavailable
}

const maxErrorBody = 64 << 10

// answerOf reads what a server says about its status (distribution-spec, "Error Codes"; token servers say "details"). It closes the body.
func answerOf(host string, resp *http.Response) *answer {
	defer resp.Body.Close()
	a := &answer{host: host, code: resp.StatusCode, what: http.StatusText(resp.StatusCode), after: retryAfter(resp.Header, time.Now())}
	a.sent = resp.Request != nil && resp.Request.Method != http.MethodGet && resp.Request.Method != http.MethodHead
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return a
	}
	var said struct {
		Errors []struct {
			Code, Message string
		} `json:"errors"`
		Details string `json:"details"`
	}
	if json.Unmarshal(body, &said) != nil {
		return a // a page for people
	}
	for _, e := range said.Errors {
		a.codes = append(a.codes, e.Code)
	}
	text := said.Details
	if len(said.Errors) > 0 && said.Errors[0].Message != "" {
		text = said.Errors[0].Message
	}
	if text != "" {
		a.what = strings.Join(strings.Fields(fmt.Sprintf("%.300s", text)), " ")
	}
	return a
}

// hinted is an error with a line that says what a person can do about it.
type hinted struct {
	error
	hint string
}

// Hint is that line.
func (h hinted) Hint() string { return h.hint }

// Unwrap is the error without it.
func (h hinted) Unwrap() error { return h.error }

// explain turns what the network says, which may be many lines, into one line and a kind. What has its kind already stays as it is.
// host is who was asked, where err does not say that it was somebody else.
func explain(host string, err error) error {
	var own *ownError
	if errors.As(err, &own) {
		return own.error
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		if u, bad := url.Parse(ue.URL); bad == nil && u.Host != "" && u.Host != dockerHubAPI {
			host = u.Host
		}
		err = ue.Err
	}
	if err == nil || errors.Is(err, context.Canceled) || err == context.DeadlineExceeded { // which net/http's own timeouts claim to be
		return err
	}
	for _, kind := range []error{ErrNotFound, ErrUnauthorized, ErrUnavailable, ErrRefused, ErrCorrupt, ErrBlocked, ErrConfig} {
		if errors.Is(err, kind) {
			return err
		}
	}
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		return hinted{fmt.Errorf("%s: its certificate is signed by an authority that is not known here: %w", host, ErrUnavailable),
			"put the authority's certificate into /etc/containers/certs.d/" + host + "/ca.crt, or into the system's store"}
	case errors.As(err, &invalid), errors.As(err, &name):
		return hinted{fmt.Errorf("%s: its certificate is not valid: %s: %w", host, oneLine(err), ErrUnavailable),
			"is it the right host, and is this machine's clock right?"}
	case alerted(err) != nil:
		return hinted{fmt.Errorf("%s refused the TLS connection: %s: %w", host, oneLine(err), ErrUnavailable),
			"if it asks for a client's certificate, put one into /etc/containers/certs.d/" + host + "/ as client.cert and client.key"}
	case errors.Is(err, http.ErrSchemeMismatch):
		return hinted{fmt.Errorf("%s does not speak TLS: %w", host, ErrUnavailable),
			"if that is as it should be: --plain-http, or insecure = true in registries.conf"}
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("%s closed the connection in the middle of an answer: %w", host, ErrUnavailable)
	}
	return fmt.Errorf("%s: %s: %w", host, oneLine(err), ErrUnavailable)
}
