package image

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// carry applies to the config next what config mine changed in old (all JSON): a field that is in mine as it is in old is as next has it,
// every other is as mine has it. Objects, labels for instance, are looked at field by field, and the environment variable by variable.
func carry(old, mine, next []byte) ([]byte, error) {
	var parsed [3]map[string]any
	for i, raw := range [][]byte{old, mine, next} {
		if err := decode(raw, &parsed[i]); err != nil {
			return nil, fmt.Errorf("read config: %w", err)
		}
		if c, ok := parsed[i]["config"].(map[string]any); ok && c["Env"] != nil {
			c["Env"] = environment(c["Env"])
		}
	}
	merged, _ := carried(parsed[0], parsed[1], parsed[2]).(map[string]any)
	if c, ok := merged["config"].(map[string]any); ok && c["Env"] != nil {
		c["Env"] = inOrder(c["Env"], next, mine)
	}
	return json.Marshal(merged)
}

func carried(old, mine, next any) any {
	o, _ := old.(map[string]any)
	m, isObject := mine.(map[string]any)
	n, also := next.(map[string]any)
	switch {
	case reflect.DeepEqual(old, mine):
		return next
	case reflect.DeepEqual(old, next):
		return mine
	case !isObject && mine != nil, !also && next != nil:
		return mine
	}
	all := map[string]any{}
	for _, fields := range []map[string]any{o, m, n} {
		for key := range fields {
			if v := carried(o[key], m[key], n[key]); v != nil {
				all[key] = v
			}
		}
	}
	if len(all) == 0 && !isObject {
		return nil
	}
	return all
}

// environment is a list of NAME=VALUE as an object.
func environment(list any) any {
	entries, ok := list.([]any)
	if !ok {
		return nil
	}
	vars := map[string]any{}
	for _, e := range entries {
		if s, ok := e.(string); ok {
			name, value, _ := strings.Cut(s, "=")
			vars[name] = value
		}
	}
	return vars
}

// inOrder is an environment as a list again: the variables that the new base has in its order, then the others in the image's.
func inOrder(vars any, next, mine []byte) any {
	left, ok := vars.(map[string]any)
	if !ok {
		return nil
	}
	list := []any{}
	for _, raw := range [][]byte{next, mine} {
		var of struct{ Config struct{ Env []string } }
		if json.Unmarshal(raw, &of) != nil {
			continue // it was decoded before
		}
		for _, e := range of.Config.Env {
			name, _, _ := strings.Cut(e, "=")
			if value, ok := left[name].(string); ok {
				list = append(list, name+"="+value)
				delete(left, name)
			}
		}
	}
	return list
}
