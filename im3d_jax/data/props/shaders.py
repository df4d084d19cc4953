"""GLSL of props: the renderer of meshes with another albedo, another light, and highlights.

Albedo is multiplied by light as sRGB values, as in `meshes.shaders`.
"""

from __future__ import annotations

from im3d_jax.data.props.paints import SCOPES, SURFACES


VERTEX = """
#version 330
in vec3 position;
in vec3 normal;
in vec2 uv;
in vec4 colour;
uniform mat4 world_from_object;
uniform mat3 normal_from_object;
uniform mat4 world_to_clip;
uniform vec2 uv_scale;
out vec3 object;
out vec3 world;
out vec3 facing;
out vec2 place;
out vec4 tint;
void main() {
    object = position;
    world = (world_from_object * vec4(position, 1.0)).xyz;
    facing = normal_from_object * normal;
    place = uv * uv_scale;
    tint = colour;
    gl_Position = world_to_clip * vec4(world, 1.0);
}
"""


def surface_shader(surface: str | None) -> str:
    """The fragment shader of one of `SURFACES`, or of objects in their own colours.

    One program each: software renderers run all branches of a shader, and patterns take most of the time.
    """
    number = -1 if surface is None else SURFACES.index(surface)
    constants = {"ALL": SCOPES.index("all"), "surface": number}
    constants |= {name.upper(): i for i, name in enumerate(SURFACES)}
    lines = [f"#define {name} {value}" for name, value in constants.items()]
    if surface is not None:
        lines.append("#define PAINTED")
    return "\n".join(["#version 330", *lines, _SURFACE])


_SURFACE = """
in vec3 object;
in vec3 world;
in vec3 facing;
in vec2 place;
in vec4 tint;
uniform vec3 eye;
uniform sampler2D picture;
uniform bool has_picture;
uniform vec3 emission;
uniform sampler2D glow;
uniform bool has_glow;
uniform int alpha_mode;   // 0 opaque, 1 mask, 2 blend
uniform float cutoff;
uniform bool solid_only;
uniform int scope;        // what is repainted
uniform vec3 main_lab;    // Oklab of the object's main colour
uniform vec3 paint;       // sRGB
uniform float keep;       // of the lightness within what is repainted
uniform vec3 grain;       // direction of wood, in the object
uniform vec3 seed;        // moves patterns
uniform vec4 light;       // ambient, sky, key, fill
uniform vec3 key_light;
uniform vec3 fill_light;
out vec4 pixel;

vec3 to_srgb(vec3 linear) {
    vec3 c = clamp(linear, 0.0, 1.0);
    return mix(1.055 * pow(max(c, 1e-8), vec3(1.0 / 2.4)) - 0.055, 12.92 * c, lessThanEqual(c, vec3(0.0031308)));
}

vec3 to_linear(vec3 c) {
    return mix(pow((c + 0.055) / 1.055, vec3(2.4)), c / 12.92, lessThanEqual(c, vec3(0.04045)));
}

// Bjorn Ottosson, "A perceptual color space for image processing", 2020.
vec3 to_oklab(vec3 c) {
    float l = 0.4122214708 * c.r + 0.5363325363 * c.g + 0.0514459929 * c.b;
    float m = 0.2119034982 * c.r + 0.6806995451 * c.g + 0.1073969566 * c.b;
    float s = 0.0883024619 * c.r + 0.2817188376 * c.g + 0.6299787005 * c.b;
    vec3 r = pow(max(vec3(l, m, s), 0.0), vec3(1.0 / 3.0));
    return vec3(
        0.2104542553 * r.x + 0.7936177850 * r.y - 0.0040720468 * r.z,
        1.9779984951 * r.x - 2.4285922050 * r.y + 0.4505937099 * r.z,
        0.0259040371 * r.x + 0.7827717662 * r.y - 0.8086757660 * r.z
    );
}

// Whole numbers, so that all devices draw the same pattern.
float corner(ivec3 cell) {
    uvec3 c = uvec3(cell) * uvec3(1597334673u, 3812015801u, 2798796415u);
    uint n = (c.x ^ c.y ^ c.z) * 1597334673u;
    n ^= n >> 15u;
    n *= 2246822519u;
    return float((n >> 8u) & 65535u) / 65535.0;
}

float noise(vec3 p) {
    ivec3 i = ivec3(floor(p));
    vec3 f = p - floor(p);
    f = f * f * (3.0 - 2.0 * f);
    float x00 = mix(corner(i), corner(i + ivec3(1, 0, 0)), f.x);
    float x10 = mix(corner(i + ivec3(0, 1, 0)), corner(i + ivec3(1, 1, 0)), f.x);
    float x01 = mix(corner(i + ivec3(0, 0, 1)), corner(i + ivec3(1, 0, 1)), f.x);
    float x11 = mix(corner(i + ivec3(0, 1, 1)), corner(i + ivec3(1, 1, 1)), f.x);
    return mix(mix(x00, x10, f.y), mix(x01, x11, f.y), f.z);
}

float cloud(vec3 p) { return 0.5 * noise(p) + 0.3 * noise(2.1 * p + 7.0) + 0.2 * noise(4.3 * p + 19.0); }

// What the surface multiplies its colour by.
float pattern() {
    vec3 p = object + seed;
    if (surface == WOOD) {
        vec3 across = p - 0.93 * grain * dot(p, grain);
        float bend = cloud(1.7 * across);
        float ring = 0.5 + 0.5 * sin(26.0 * length(across.xy + across.yz) + 9.0 * bend);
        float fibre = noise(vec3(34.0) * across);
        return 0.80 + 0.20 * ring + 0.14 * (fibre - 0.5);
    }
    if (surface == STONE) return 0.84 + 0.20 * cloud(5.0 * p) + 0.22 * (noise(38.0 * p) - 0.5);
    if (surface == CLAY) return 0.93 + 0.14 * (cloud(7.0 * p) - 0.5) + 0.05 * noise(40.0 * p);
    if (surface == MARBLE) {
        float vein = abs(sin(7.0 * (p.x + 0.6 * p.y + 0.8 * p.z) + 9.0 * cloud(2.2 * p)));
        return mix(0.62, 1.04, smoothstep(0.0, 0.35, vein));
    }
    return 1.0;
}

void main() {
    vec4 base = tint;
    if (has_picture) base *= texture(picture, place);
    float alpha = 1.0;
    if (alpha_mode == 1 && base.a < cutoff) discard;
    if (alpha_mode == 2) {
        alpha = clamp(base.a, 0.0, 1.0);
        if ((alpha > 0.99) != solid_only) discard;
        if (solid_only) alpha = 1.0;
    }
    // The true normal of the triangle, towards the camera: both sides are lit, whatever the winding says.
    vec3 flat_normal = cross(dFdx(world), dFdy(world));
    vec3 view = normalize(eye - world);
    if (dot(flat_normal, view) < 0.0) flat_normal = -flat_normal;
    vec3 n = facing;
    if (dot(n, n) < 1e-12) n = flat_normal;
    if (dot(n, flat_normal) < 0.0) n = -n;
    n = dot(n, n) > 0.0 ? normalize(n) : vec3(0.0, 0.0, 1.0);

    vec3 albedo = to_srgb(base.rgb);
    vec3 own = emission;
    float painted = 0.0;
#ifdef PAINTED
    {
        vec3 lab = to_oklab(clamp(base.rgb, 0.0, 1.0));
        vec3 away = (lab - main_lab) * vec3(0.35, 1.0, 1.0);
        painted = scope == ALL ? 1.0 : 1.0 - smoothstep(0.045, 0.07, length(away));
        float shade = mix(1.0, clamp((lab.x + 0.05) / (main_lab.x + 0.05), 0.5, 1.3), keep);
        albedo = mix(albedo, clamp(paint * shade * pattern(), 0.0, 1.0), painted);
        if (scope == ALL) own = vec3(0.0);
    }
#endif
    float lit = light.x + light.y * (0.5 + 0.5 * n.z)
        + light.z * max(dot(n, key_light), 0.0) + light.w * max(dot(n, fill_light), 0.0);
    vec3 rgb = albedo * lit;
    vec3 mirrored = reflect(-view, n);
    float glint = max(dot(mirrored, key_light), 0.0);
    if (surface == METAL) {
        float sky = smoothstep(-0.35, 0.75, mirrored.z);
        vec3 shiny = albedo * (0.52 + 0.50 * sky) * (0.55 + 0.45 * lit) + albedo * 0.35 * pow(glint, 14.0);
        rgb = mix(rgb, shiny + 0.12 * pow(glint, 40.0), painted);
    }
    if (surface == GLOSS || surface == MARBLE) rgb += painted * 0.24 * pow(glint, 36.0);
    if (has_glow) own *= texture(glow, place).rgb;
    if (dot(own, own) > 0.0) rgb = to_srgb(to_linear(clamp(rgb, 0.0, 1.0)) + own);
    pixel = vec4(clamp(rgb, 0.0, 1.0) * alpha, alpha);
}
"""

# Straight alpha out; the target holds all frames one below the other.
RESOLVE = """
#version 330
uniform sampler2D samples;
uniform int side;
uniform int first_row;
out vec4 pixel;
void main() {
    ivec2 first = (ivec2(gl_FragCoord.xy) - ivec2(0, first_row)) * side;
    vec4 sum = vec4(0.0);
    for (int j = 0; j < side; ++j)
        for (int i = 0; i < side; ++i)
            sum += texelFetch(samples, first + ivec2(i, j), 0);
    float alpha = sum.a / float(side * side);
    pixel = alpha > 0.0019 ? vec4(sum.rgb / sum.a, alpha) : vec4(0.0);
}
"""
