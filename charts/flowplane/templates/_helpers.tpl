{{/* Labels of every object. No chart version among them: a new chart would then restart every process. */}}
{{- define "flowplane.labels" -}}
{{ include "flowplane.selector" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
{{- end }}

{{/* Labels that choose pods; they can never change. */}}
{{- define "flowplane.selector" -}}
app.kubernetes.io/name: flowplane
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* All pods of ours. */}}
{{- define "flowplane.everybody" -}}
matchLabels:
  app.kubernetes.io/name: flowplane
  app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Pods of ours by what they do. */}}
{{- define "flowplane.some" -}}
{{ include "flowplane.everybody" .root }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: {{ .components | toJson }}
{{- end }}

{{- define "flowplane.metadata" -}}
name: {{ .name | default .component }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "flowplane.labels" . | nindent 2 }}
{{- end }}

{{/* Name of what lies outside our namespace, where installations meet. */}}
{{- define "flowplane.clusterWide" -}}
flowplane-{{ .Release.Namespace }}
{{- end }}

{{- define "flowplane.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* Whether our own Kubernetes cluster is a region of ours. */}}
{{- define "flowplane.runsEngines" -}}
{{ if not .Values.region.kubeconfigSecret }}yes{{ end }}
{{- end }}

{{/* A quantity as the API server writes it back (1Gi, not 1024Mi). */}}
{{- define "flowplane.mebibytes" -}}
{{- $size := int64 . -}}
{{- if eq (mod $size 1024) 0 -}}{{ div $size 1024 }}Gi{{- else -}}{{ $size }}Mi{{- end -}}
{{- end }}

{{- define "flowplane.cores" -}}
{{- $share := int64 . -}}
{{- if eq (mod $share 1000) 0 -}}{{ div $share 1000 }}{{- else -}}{{ $share }}m{{- end -}}
{{- end }}

{{/* Memory is what was promised and no more; the processor may be used while nobody else wants it. */}}
{{- define "flowplane.resources" -}}
resources:
  requests:
    cpu: {{ include "flowplane.cores" (.cpuMillis | default 20) | quote }}
    memory: {{ include "flowplane.mebibytes" .memoryMiB | quote }}
  limits:
    memory: {{ include "flowplane.mebibytes" .memoryMiB | quote }}
{{- end }}

{{- define "flowplane.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* What every pod of the chart has, whatever it does. `user` is the image's. */}}
{{- define "flowplane.podCommon" -}}
serviceAccountName: {{ .account }}
automountServiceAccountToken: {{ .token | default false }}
# A namespace's Services would be in the environment, and FLOWPLANE_... names that we do not know stop a start.
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.scheduling.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.scheduling.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.scheduling.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{/* Processes of one kind on different nodes, where there are some. */}}
{{- define "flowplane.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "flowplane.selector" . | nindent 8 }}
{{- end }}
