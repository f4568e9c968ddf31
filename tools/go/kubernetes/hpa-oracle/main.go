// Command hpa-oracle runs Kubernetes' own controller of HorizontalPodAutoscalers on histories that somebody made up.
//
// It reads histories from standard input, one JSON document a line, and writes what the controller decided at each step,
// one line a history. The controller is the one of kube-controller-manager, compiled from the same sources and unchanged:
// its queue, its listers, its clients of the metrics APIs. What it asks is answered from the history. The clock is
// synctest's: time passes when everything waits for it, so an hour of turns takes milliseconds, and windows and periods
// are exact to the nanosecond.
//
// A step's moment comes about thus: the controller's turn begins with a question for the scale, and the answer waits
// until the moment of the step has come.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	autoscalingclient "k8s.io/client-go/kubernetes/typed/autoscaling/v2"
	v1core "k8s.io/client-go/kubernetes/typed/core/v1"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	defaults "k8s.io/kubernetes/pkg/apis/autoscaling/v2"
	"k8s.io/kubernetes/pkg/controller/podautoscaler"
	"k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
	custom "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	external "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
	usage "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	usageclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	customclient "k8s.io/metrics/pkg/client/custom_metrics"
	externalclient "k8s.io/metrics/pkg/client/external_metrics"
)

const namespace, name = "default", "dub5"

// History is what happens to one autoscaler. Times are in seconds; those of steps increase.
type History struct {
	Controller struct {
		Tolerance               float64 `json:"tolerance"`
		DownscaleStabilization  float64 `json:"downscale_stabilization"`
		CPUInitializationPeriod float64 `json:"cpu_initialization_period"`
		InitialReadinessDelay   float64 `json:"initial_readiness_delay"`
		ConfigurableTolerance   bool    `json:"configurable_tolerance"`
		ScaleToZero             bool    `json:"scale_to_zero"`
	} `json:"controller"`
	Steps []Step `json:"steps"`
}

// Step is one turn of the controller: the moment, and what it finds then.
type Step struct {
	Time           float64                                    `json:"time"`
	Spec           *autoscalingv2.HorizontalPodAutoscalerSpec `json:"spec"` // from now on; nil: as before
	Replicas       int32                                      `json:"replicas"`
	StatusReplicas int32                                      `json:"status_replicas"`
	Pods           []Pod                                      `json:"pods"`
	Readings       []json.RawMessage                          `json:"readings"` // one for each metric
}

type Pod struct {
	Name        string                      `json:"name"`
	Phase       v1.PodPhase                 `json:"phase"`
	Deleted     bool                        `json:"deleted"`
	Ready       *v1.ConditionStatus         `json:"ready"`
	ReadySince  float64                     `json:"ready_since"`
	Started     *float64                    `json:"started"`
	Requests    map[string]map[string]int64 `json:"requests"`
	PodRequests map[string]int64            `json:"pod_requests"`
}

// Sample is what a metrics API says of a pod: thousandths, the moment, seconds.
type Sample [3]float64

// Answer is what the controller made of a step.
type Answer struct {
	Replicas   int32               `json:"replicas"` // what the scale asks for from now on
	Desired    int32               `json:"desired"`
	Proposed   *int32              `json:"proposed"`
	Cause      *string             `json:"cause"`
	Conditions map[string][]string `json:"conditions"`
	Metrics    [][]*int64          `json:"metrics"` // percent and thousandths
}

// world answers what the controller asks, from the step that it is at.
type world struct {
	history   *History
	begin     time.Time // of the history's time 0
	gap       time.Duration
	at        int // -1: before the first step
	asked     int // metrics of this turn
	spec      autoscalingv2.HorizontalPodAutoscalerSpec
	hpas      cache.Indexer
	pods      cache.Indexer
	answers   []Answer
	done      chan struct{}
	autoscale cache.ResourceEventHandler
}

func main() {
	// synctest takes a *testing.T, which only a test has.
	testing.Main(func(string, string) (bool, error) { return true, nil },
		[]testing.InternalTest{{Name: "histories", F: run}}, nil, nil)
}

func run(t *testing.T) {
	klog.SetLogger(logr.Discard())
	utilruntime.ErrorHandlers = nil // what cannot be read is part of a history, and in the answer
	input, output := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	decoder, encoder := json.NewDecoder(input), json.NewEncoder(output)
	for decoder.More() {
		history := &History{}
		if err := decoder.Decode(history); err != nil {
			fatal(err)
		}
		var answers []Answer
		synctest.Test(t, func(*testing.T) { answers = play(history) })
		if err := encoder.Encode(answers); err != nil {
			fatal(err)
		}
	}
	if err := output.Flush(); err != nil {
		fatal(err)
	}
	os.Exit(0) // before testing says that it passed
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// play has the controller take every step of a history.
func play(history *History) []Answer {
	controller := history.Controller
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(map[string]bool{
		"HPAConfigurableTolerance": controller.ConfigurableTolerance,
		"HPAScaleToZero":           controller.ScaleToZero,
	}); err != nil {
		fatal(err)
	}
	gap := shortest(history.Steps)
	byNamespace := cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}
	w := &world{
		history: history,
		begin:   time.Now().Add(2*gap - seconds(history.Steps[0].Time)),
		gap:     gap,
		at:      -1,
		hpas:    cache.NewIndexer(cache.MetaNamespaceKeyFunc, byNamespace),
		pods:    cache.NewIndexer(cache.MetaNamespaceKeyFunc, byNamespace),
		done:    make(chan struct{}),
	}
	w.hpas.Add(&autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}})
	w.take(history.Steps[0].Spec)
	ctx, stop := context.WithCancel(klog.NewContext(context.Background(), logr.New(&journal{world: w})))
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{{Group: "apps", Version: "v1"}})
	mapper.Add(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, meta.RESTScopeNamespace)
	c := podautoscaler.NewHorizontalController(
		ctx, events{}, scales{world: w}, autoscalers{world: w}, mapper,
		metrics.NewRESTMetricsClient(usages{world: w}, customs{world: w}, externals{world: w}),
		hpaInformer{world: w}, podInformer{world: w},
		gap, seconds(controller.DownscaleStabilization), controller.Tolerance,
		seconds(controller.CPUInitializationPeriod), seconds(controller.InitialReadinessDelay),
	)
	w.autoscale.OnAdd(w.autoscaler(), false)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Run(ctx, 1)
	}()
	<-w.done
	stop()
	<-ended
	return w.answers
}

// shortest is the least time between two steps: the controller's period, after which it asks for the next.
func shortest(steps []Step) time.Duration {
	gap := time.Minute
	for i := 1; i < len(steps); i++ {
		gap = min(gap, seconds(steps[i].Time)-seconds(steps[i-1].Time))
	}
	return gap
}

func seconds(amount float64) time.Duration { return time.Duration(amount * float64(time.Second)) }

func (w *world) moment(at float64) metav1.Time { return metav1.NewTime(w.begin.Add(seconds(at))) }

func (w *world) step() *Step { return &w.history.Steps[w.at] }

// take gives the autoscaler a spec, with the defaults of the API server.
func (w *world) take(spec *autoscalingv2.HorizontalPodAutoscalerSpec) {
	if spec == nil {
		return
	}
	hpa := w.autoscaler().DeepCopy()
	hpa.Spec = *spec.DeepCopy()
	hpa.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name}
	defaults.SetDefaults_HorizontalPodAutoscaler(hpa)
	w.spec = hpa.Spec
	w.hpas.Update(hpa)
}

func (w *world) autoscaler() *autoscalingv2.HorizontalPodAutoscaler {
	hpa, _, _ := w.hpas.GetByKey(namespace + "/" + name)
	return hpa.(*autoscalingv2.HorizontalPodAutoscaler)
}

// next ends a step and waits for the moment of the one after it. False: there is none.
func (w *world) next() bool {
	if w.at >= 0 && w.at < len(w.history.Steps) {
		w.finish()
	}
	w.at++
	if w.at >= len(w.history.Steps) {
		if w.at == len(w.history.Steps) {
			close(w.done)
		}
		return false
	}
	step := w.step()
	moment := w.begin.Add(seconds(step.Time))
	time.Sleep(time.Until(moment))
	if !time.Now().Equal(moment) {
		fatal(fmt.Errorf("the turn of step %d came late", w.at))
	}
	w.asked = 0
	pods := make([]any, len(step.Pods))
	for i := range step.Pods {
		pods[i] = w.pod(&step.Pods[i])
	}
	w.pods.Replace(pods, "")
	if w.at+1 < len(w.history.Steps) { // a turn begins with the spec, so that the next is there before
		spec := w.history.Steps[w.at+1].Spec
		time.AfterFunc(w.gap/2, func() { w.take(spec) })
	}
	w.answers = append(w.answers, Answer{Replicas: step.Replicas})
	return true
}

// finish completes a step's answer by what the controller left in the status.
func (w *world) finish() {
	answer, status := &w.answers[w.at], w.autoscaler().Status
	answer.Desired = status.DesiredReplicas
	answer.Conditions = map[string][]string{}
	for _, condition := range status.Conditions {
		answer.Conditions[string(condition.Type)] = []string{string(condition.Status), condition.Reason}
	}
	for _, metric := range status.CurrentMetrics {
		answer.Metrics = append(answer.Metrics, current(metric))
	}
}

func current(metric autoscalingv2.MetricStatus) []*int64 {
	var value autoscalingv2.MetricValueStatus
	switch {
	case metric.Pods != nil:
		value = metric.Pods.Current
	case metric.Object != nil:
		value = metric.Object.Current
	case metric.External != nil:
		value = metric.External.Current
	case metric.Resource != nil:
		value = metric.Resource.Current
	case metric.ContainerResource != nil:
		value = metric.ContainerResource.Current
	}
	result := make([]*int64, 2)
	if value.AverageUtilization != nil {
		percent := int64(*value.AverageUtilization)
		result[0] = &percent
	}
	for _, quantity := range []*resource.Quantity{value.Value, value.AverageValue} {
		if quantity != nil {
			milli := quantity.MilliValue()
			result[1] = &milli
		}
	}
	return result
}

func (w *world) pod(from *Pod) *v1.Pod {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: from.Name, Namespace: namespace, Labels: map[string]string{"app": name}},
		Status:     v1.PodStatus{Phase: from.Phase},
	}
	if from.Deleted {
		pod.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	}
	if from.Ready != nil {
		pod.Status.Conditions = []v1.PodCondition{
			{Type: v1.PodReady, Status: *from.Ready, LastTransitionTime: w.moment(from.ReadySince)},
		}
	}
	if from.Started != nil {
		started := w.moment(*from.Started)
		pod.Status.StartTime = &started
	}
	for container, requests := range from.Requests {
		pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{
			Name: container, Resources: v1.ResourceRequirements{Requests: resources(requests)},
		})
	}
	if len(from.PodRequests) > 0 {
		pod.Spec.Resources = &v1.ResourceRequirements{Requests: resources(from.PodRequests)}
	}
	return pod
}

func resources(from map[string]int64) v1.ResourceList {
	list := v1.ResourceList{}
	for resourceName, milli := range from {
		list[v1.ResourceName(resourceName)] = thousandths(milli)
	}
	return list
}

func thousandths(milli int64) resource.Quantity {
	return *resource.NewMilliQuantity(milli, resource.DecimalSI)
}

// reading is the answer to the next metric of this turn: each is asked for once, in the order of the spec.
func (w *world) reading(into any) (autoscalingv2.MetricSpec, error) {
	metric, raw := w.spec.Metrics[w.asked], w.step().Readings[w.asked]
	w.asked++
	if string(raw) == "null" {
		return metric, errors.New("no answer")
	}
	return metric, json.Unmarshal(raw, into)
}

// The scale: its reader is where a turn begins.

type scales struct{ *world }

func (s scales) Scales(string) scale.ScaleInterface { return scaleOf{world: s.world} }

type scaleOf struct {
	scale.ScaleInterface
	*world
}

func (s scaleOf) Get(context.Context, schema.GroupResource, string, metav1.GetOptions) (*autoscalingv1.Scale, error) {
	if !s.next() {
		return nil, errors.New("the history has ended")
	}
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec:       autoscalingv1.ScaleSpec{Replicas: s.step().Replicas},
		Status:     autoscalingv1.ScaleStatus{Replicas: s.step().StatusReplicas, Selector: "app=" + name},
	}, nil
}

func (s scaleOf) Update(_ context.Context, _ schema.GroupResource, wanted *autoscalingv1.Scale, _ metav1.UpdateOptions) (*autoscalingv1.Scale, error) {
	s.answers[s.at].Replicas = wanted.Spec.Replicas
	return wanted, nil
}

// The autoscaler: the controller reads it from a cache, and writes its status.

type autoscalers struct{ *world }

func (a autoscalers) HorizontalPodAutoscalers(string) autoscalingclient.HorizontalPodAutoscalerInterface {
	return statusOf{world: a.world}
}

type statusOf struct {
	autoscalingclient.HorizontalPodAutoscalerInterface
	*world
}

func (s statusOf) UpdateStatus(_ context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler, _ metav1.UpdateOptions) (*autoscalingv2.HorizontalPodAutoscaler, error) {
	stored := hpa.DeepCopy()
	stored.Spec = s.spec // the controller fills its copy in
	return hpa, s.hpas.Update(stored)
}

type hpaInformer struct{ *world }

func (i hpaInformer) Informer() cache.SharedIndexInformer { return informer{world: i.world} }

func (i hpaInformer) Lister() autoscalinglisters.HorizontalPodAutoscalerLister {
	return autoscalinglisters.NewHorizontalPodAutoscalerLister(i.hpas)
}

type podInformer struct{ *world }

func (i podInformer) Informer() cache.SharedIndexInformer { return informer{world: i.world} }

func (i podInformer) Lister() corelisters.PodLister { return corelisters.NewPodLister(i.pods) }

// informer is one that is always in step, and whose one event is the first.
type informer struct {
	cache.SharedIndexInformer
	*world
}

func (informer) HasSynced() bool { return true }

func (i informer) AddEventHandlerWithResyncPeriod(handler cache.ResourceEventHandler, _ time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	i.autoscale = handler
	return nil, nil
}

// The metrics APIs.

type usages struct{ *world }

func (u usages) PodMetricses(string) usageclient.PodMetricsInterface { return usageOf{world: u.world} }

type usageOf struct {
	usageclient.PodMetricsInterface
	*world
}

func (u usageOf) List(context.Context, metav1.ListOptions) (*usage.PodMetricsList, error) {
	samples, list := map[string]Sample{}, &usage.PodMetricsList{}
	metric, err := u.reading(&samples)
	if err != nil {
		return nil, err
	}
	resourceName, container := v1.ResourceName(""), "main"
	if metric.Resource != nil {
		resourceName = metric.Resource.Name
	} else {
		resourceName, container = metric.ContainerResource.Name, metric.ContainerResource.Container
	}
	for pod, sample := range samples {
		list.Items = append(list.Items, usage.PodMetrics{
			ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: namespace},
			Timestamp:  u.moment(sample[1]),
			Window:     metav1.Duration{Duration: seconds(sample[2])},
			Containers: []usage.ContainerMetrics{
				{Name: container, Usage: v1.ResourceList{resourceName: thousandths(int64(sample[0]))}},
			},
		})
	}
	return list, nil
}

type customs struct{ *world }

func (c customs) RootScopedMetrics() customclient.MetricsInterface { return customOf(c) }

func (c customs) NamespacedMetrics(string) customclient.MetricsInterface { return customOf(c) }

type customOf struct{ *world }

func (c customOf) GetForObjects(schema.GroupKind, labels.Selector, string, labels.Selector) (*custom.MetricValueList, error) {
	samples, list := map[string]Sample{}, &custom.MetricValueList{}
	if _, err := c.reading(&samples); err != nil {
		return nil, err
	}
	for pod, sample := range samples {
		window := int64(sample[2])
		list.Items = append(list.Items, custom.MetricValue{
			DescribedObject: v1.ObjectReference{Kind: "Pod", Name: pod, Namespace: namespace},
			Timestamp:       c.moment(sample[1]),
			WindowSeconds:   &window,
			Value:           thousandths(int64(sample[0])),
		})
	}
	return list, nil
}

func (c customOf) GetForObject(schema.GroupKind, string, string, labels.Selector) (*custom.MetricValue, error) {
	var values []int64
	if _, err := c.reading(&values); err != nil {
		return nil, err
	}
	if len(values) != 1 {
		return nil, errors.New("no value")
	}
	return &custom.MetricValue{Timestamp: metav1.Now(), Value: thousandths(values[0])}, nil
}

type externals struct{ *world }

func (e externals) NamespacedMetrics(string) externalclient.MetricsInterface { return externalOf(e) }

type externalOf struct{ *world }

func (e externalOf) List(string, labels.Selector) (*external.ExternalMetricValueList, error) {
	var values []int64
	if _, err := e.reading(&values); err != nil {
		return nil, err
	}
	list := &external.ExternalMetricValueList{}
	for _, value := range values {
		list.Items = append(list.Items, external.ExternalMetricValue{Timestamp: metav1.Now(), Value: thousandths(value)})
	}
	return list, nil
}

// events takes the controller's events, which nobody reads.
type events struct{ v1core.EventInterface }

func (e events) Events(string) v1core.EventInterface { return e }

func (events) CreateWithEventNamespace(event *v1.Event) (*v1.Event, error) { return event, nil }

func (events) PatchWithEventNamespace(event *v1.Event, _ []byte) (*v1.Event, error) {
	return event, nil
}

// journal takes from the controller's log what its status does not say.
type journal struct{ *world }

func (*journal) Init(logr.RuntimeInfo)            {}
func (*journal) Enabled(int) bool                 { return true }
func (*journal) Error(error, string, ...any)      {}
func (j *journal) WithValues(...any) logr.LogSink { return j }
func (j *journal) WithName(string) logr.LogSink   { return j }

func (j *journal) Info(_ int, message string, pairs ...any) {
	if j.at < 0 || j.at >= len(j.history.Steps) {
		return
	}
	answer := &j.answers[j.at]
	if strings.HasPrefix(message, "Proposing desired replicas") {
		proposed := value(pairs, "desiredReplicas").(int32)
		answer.Proposed = &proposed
	} else if message == "Successfully rescaled" {
		cause := value(pairs, "reason").(string)
		answer.Cause = &cause
	}
}

func value(pairs []any, key string) any {
	return pairs[slices.Index(pairs, any(key))+1]
}
