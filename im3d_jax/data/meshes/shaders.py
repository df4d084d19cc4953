"""GLSL of the renderer: surfaces in linear light, lit as Toybox lights them, and the mean over samples."""

from __future__ import annotations

from im3d_jax.data.meshes import rig


VERTEX = """
#version 330
in vec3 position;
in vec3 normal;
in vec2 uv;
in vec4 colour;
uniform mat4 world_to_clip;
uniform vec2 uv_scale;
out vec3 world;
out vec3 facing;
out vec2 place;
out vec4 tint;
void main() {
    world = position;
    facing = normal;
    place = uv * uv_scale;
    tint = colour;
    gl_Position = world_to_clip * vec4(position, 1.0);
}
"""

# Albedo is multiplied by light as sRGB values, as Toybox does it: shadows stay clear, and both data sets look alike.
SURFACE = f"""
#version 330
in vec3 world;
in vec3 facing;
in vec2 place;
in vec4 tint;
uniform vec3 eye;
uniform vec4 factor;
uniform sampler2D picture;
uniform bool has_picture;
uniform vec3 emission;
uniform sampler2D glow;
uniform bool has_glow;
uniform int alpha_mode;   // 0 opaque, 1 mask, 2 blend
uniform float cutoff;
uniform bool solid_only;  // of blended surfaces, draw what hides all behind it, or the rest
out vec4 pixel;

vec3 to_srgb(vec3 linear) {{
    vec3 c = clamp(linear, 0.0, 1.0);
    return mix(1.055 * pow(max(c, 1e-8), vec3(1.0 / 2.4)) - 0.055, 12.92 * c, lessThanEqual(c, vec3(0.0031308)));
}}

vec3 to_linear(vec3 c) {{
    return mix(pow((c + 0.055) / 1.055, vec3(2.4)), c / 12.92, lessThanEqual(c, vec3(0.04045)));
}}

void main() {{
    vec4 base = factor * tint;
    if (has_picture) base *= texture(picture, place);
    float alpha = 1.0;
    if (alpha_mode == 1 && base.a < cutoff) discard;
    if (alpha_mode == 2) {{
        alpha = clamp(base.a, 0.0, 1.0);
        if ((alpha > 0.99) != solid_only) discard;
        if (solid_only) alpha = 1.0;
    }}
    // The true normal of the triangle, towards the camera: both sides are lit, whatever the winding says.
    vec3 flat_normal = cross(dFdx(world), dFdy(world));
    if (dot(flat_normal, eye - world) < 0.0) flat_normal = -flat_normal;
    vec3 n = facing;
    if (dot(n, n) < 1e-6) n = flat_normal;
    if (dot(n, flat_normal) < 0.0) n = -n;
    n = dot(n, n) > 0.0 ? normalize(n) : vec3(0.0, 0.0, 1.0);
    float light = {rig.AMBIENT:.6f} + {rig.SKY:.6f} * (0.5 + 0.5 * n.z)
        + {rig.KEY:.6f} * max(dot(n, vec3({", ".join(f"{v:.8f}" for v in rig.KEY_LIGHT)})), 0.0)
        + {rig.FILL:.6f} * max(dot(n, vec3({", ".join(f"{v:.8f}" for v in rig.FILL_LIGHT)})), 0.0);
    vec3 rgb = to_srgb(base.rgb) * light;
    vec3 own = emission;
    if (has_glow) own *= texture(glow, place).rgb;
    if (dot(own, own) > 0.0) rgb = to_srgb(to_linear(rgb) + own);
    pixel = vec4(rgb * alpha, alpha);
}}
"""

SCREEN = """
#version 330
in vec2 corner;
void main() { gl_Position = vec4(corner, 0.0, 1.0); }
"""

# Straight alpha out; the sums are of premultiplied samples, so that nothing behind a hole bleeds into an edge.
RESOLVE = """
#version 330
uniform sampler2D samples;
uniform int side;
out vec4 pixel;
void main() {
    ivec2 first = ivec2(gl_FragCoord.xy) * side;
    vec4 sum = vec4(0.0);
    for (int j = 0; j < side; ++j)
        for (int i = 0; i < side; ++i)
            sum += texelFetch(samples, first + ivec2(i, j), 0);
    float alpha = sum.a / float(side * side);
    pixel = alpha > 0.0019 ? vec4(sum.rgb / sum.a, alpha) : vec4(0.0);
}
"""
