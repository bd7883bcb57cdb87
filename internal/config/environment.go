package config

import (
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

const envPrefix = "DUALREPL"

// envName replaces what a setting's path may contain and a variable's name may not.
var envName = strings.NewReplacer(".", "_", "-", "_", ":", "_")

// A setting is one value that the environment may replace.
type setting struct {
	path string     // as viper knows it, such as jobs.docs.connect.address
	base *yaml.Node // mapping of the file that keys lead on from
	keys []string   // the last one is the setting's own
}

// override replaces settings of the file by those of the environment, and adds
// those that the file leaves out. It reports variables with our prefix that
// stand for no setting, or for several.
func (d *decoder) override(root *yaml.Node) {
	variables := ourVariables()
	if len(variables) == 0 {
		return
	}
	env := viper.New()
	env.SetEnvPrefix(envPrefix)
	env.SetEnvKeyReplacer(envName)
	env.AllowEmptyEnv(true)
	env.AutomaticEnv()
	known := settings(root)
	for _, v := range variables {
		switch found := known[v]; len(found) {
		case 0:
			d.report(place{env: v}, "", "stands for no setting", suggest(v, slices.Sorted(maps.Keys(known))))
		case 1:
			d.set(found[0], v, env.GetString(found[0].path))
		default:
			d.report(place{env: v}, "", "stands for "+found[0].path+" and for "+found[1].path, "rename one of the jobs")
		}
	}
}

// ourVariables are the names of environment variables with our prefix, sorted.
func ourVariables() []string {
	var found []string
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, envPrefix+"_") {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// settings finds what can be set, by variable: the single values of global, and
// those of each listener and job that has a name.
func settings(root *yaml.Node) map[string][]setting {
	found := map[string][]setting{}
	add := func(base *yaml.Node, prefix string, keys []string) {
		path := prefix + strings.Join(keys, ".")
		v := envPrefix + "_" + strings.ToUpper(envName.Replace(path))
		found[v] = append(found[v], setting{path, base, keys})
	}
	singles(reflect.TypeFor[Global](), []string{"global"}, func(keys []string) { add(root, "", keys) })
	for list, section := range map[string]reflect.Type{"jobs": reflect.TypeFor[Job](), "listeners": reflect.TypeFor[Listener]()} {
		for _, item := range items(root, list) {
			if name := child(item, "name"); name != nil {
				singles(section, nil, func(keys []string) { add(item, list+"."+name.Value+".", keys) })
			}
		}
	}
	return found
}

// items are those of a list at the top of the file.
func items(root *yaml.Node, list string) []*yaml.Node {
	if n := child(root, list); n != nil && n.Kind == yaml.SequenceNode {
		return n.Content
	}
	return nil
}

// child is the value of a key of a mapping, or nil.
func child(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// singles calls fn with the keys that lead to each single value of a section. The
// name of an item is left out: its variables are named after it.
func singles(section reflect.Type, path []string, fn func(keys []string)) {
	for _, k := range keysOf(section) {
		keys := append(slices.Clone(path), k.name)
		t := section.Field(k.field).Type
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch t.Kind() {
		case reflect.Struct:
			singles(t, keys, fn)
		case reflect.String, reflect.Int, reflect.Int64, reflect.Bool:
			if k.name != "name" {
				fn(keys)
			}
		}
	}
}

// set puts the value of a variable into the tree.
func (d *decoder) set(s setting, variable, value string) {
	n := s.base
	for _, key := range s.keys {
		if n = d.descend(n, key, variable); n == nil {
			return // not a mapping, as decoding will report
		}
	}
	*n = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}
	d.origin[n] = variable
}

// descend is the value of a key of n, which becomes a mapping if it is nothing
// yet. The value is a new node of no kind if there is none.
func (d *decoder) descend(n *yaml.Node, key, variable string) *yaml.Node {
	if n.Kind == 0 || n.Tag == "!!null" {
		*n = yaml.Node{Kind: yaml.MappingNode}
		d.origin[n] = variable
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	value := child(n, key)
	if value == nil {
		value = &yaml.Node{}
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, value)
	}
	return value
}
